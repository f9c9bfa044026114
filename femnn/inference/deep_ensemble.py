"""Trainings from several starts, with data drawn anew: the plain alternative to a posterior."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import firedrake as fd
import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.ensembles.likelihood import Likelihood
from femnn.inference.summaries import laws_of
from femnn.inference.terms import Terms
from femnn.parallel import from_rank_zero
from femnn.tape.squares import SumOfSquares
from femnn.training.fit import fit
from femnn.training.result import FitResult
from femnn.training.settings import check_whole

OWN = ("callback", "checkpoint", "checkpoint_every", "resume")
# Draws for a start, each from half the width of the one before.
STARTS = 6


@dataclass(frozen=True)
class DeepEnsemble:
    """What several trainings have found.

    Attributes
    ----------
    draws : numpy.ndarray
        The controls' values, shape ``(n, n_entries)``, the same on every rank.
    losses : numpy.ndarray
        The functional at each, with the data as they are, shape ``(n,)``.
    results : tuple of FitResult
        What :func:`femnn.fit` has returned for each.
    terms : Terms
        What the functional is the sum of.
    """

    draws: np.ndarray
    losses: np.ndarray
    results: tuple[FitResult, ...]
    terms: Terms = field(repr=False)

    def law(self, net: nn.Module | NeuralCoefficient, *inputs: ArrayLike) -> np.ndarray:
        """A law of each training.

        Parameters
        ----------
        net
            The network, or a coefficient of one.
        *inputs
            One array of each input, which broadcast; shapes without the trainings.

        Returns
        -------
        numpy.ndarray
            Shape ``(n, *shape)``, with the shape to which the inputs broadcast.

        Raises
        ------
        ValueError
            If none of the network's weights are controls, or the inputs do not fit.
        """
        return laws_of(self.terms, self.draws, "law", net, inputs)

    def values(self, row: ArrayLike) -> Any:
        """What the reduced functional is called with, for one of :attr:`draws`.  Collective.

        Parameters
        ----------
        row
            Shape ``(n_entries,)``.

        Returns
        -------
        Weights, firedrake.Constant, firedrake.Function or list of these
            One for each control; a list where there are several.
        """
        return self.terms.controls.values(np.asarray(row, dtype=float))


def deep_ensemble(
    Jhat: Any,
    starts: int | ArrayLike = 8,
    *,
    method: str = "gauss-newton",
    randomize: bool = True,
    seed: int = 0,
    maxiter: int = 50,
    progress: bool = False,
    **settings: Any,
) -> DeepEnsemble:
    """Train several times, each from a start of its own and with data drawn anew.  Collective.

    Each training starts from a draw of the priors.  With ``randomize``, it has data to which errors
    were added that are drawn as theirs are, and its draw for the priors' means.  Where the model is
    linear these trainings are draws of the posterior; where it is not they may find minima that an
    approximation around one of them does not know.

    Parameters
    ----------
    Jhat
        The functional, ``J = data.misfit(u) + prior.energy()``, as for :func:`femnn.laplace`.
    starts
        How many trainings; or where they start, shape ``(n, n_entries)``, such as
        ``[femnn.Weights.of(femnn.MLP(1, 16, 1, seed=s)).vector for s in range(8)]``.
    method
        As for :func:`femnn.fit`.
    randomize
        Whether data and priors' means are drawn anew; without, trainings differ by their starts
        only, and know nothing of the data's errors.
    seed
        Of numpy's random generator.
    maxiter
        Number of iterations of each at most.
    progress
        Whether rank 0 shows live progress.
    **settings
        More of :func:`femnn.fit`'s, such as ``gtol``, ``bounds`` or ``options``.

    Returns
    -------
    DeepEnsemble
        ``draws``, ``losses`` and ``law(net, points)``.  Controls, data and priors are as before
        afterwards, and the model has been run there.

    Raises
    ------
    RuntimeError
        If the model fails near the priors' means.
    TypeError
        If a setting is of another kind, or :func:`femnn.fit` does not know it.
    ValueError
        If the functional is not as :func:`femnn.laplace` wants it, ``starts`` are of another shape,
        a misfit that is to be drawn anew has a loss that is not the square, or a setting is one
        that each training would need for itself.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel, C. Blundell, NeurIPS 2017, for ensembles of networks; D. S.
    Oliver, N. He, A. C. Reynolds, ECMOR V (1996), for data drawn anew; T. Pearce, F. Leibfried,
    A. Brintrup, AISTATS 2020, for priors' means.

    Examples
    --------
    >>> trained = deep_ensemble(Jhat, 16)
    >>> lower, upper = np.quantile(trained.law(kappa, points), [0.05, 0.95], axis=0)
    """
    for name in OWN:
        if name in settings:
            raise ValueError(
                f"deep_ensemble got {name}, which each training would need for itself: call "
                "femnn.fit from each start."
            )
    if not isinstance(method, str):
        raise TypeError(
            f"deep_ensemble got a {type(method).__name__} as method: wanted a name, as an "
            "optimiser remembers one training."
        )
    settings.update(method=method, maxiter=maxiter, progress=progress)
    trainings = _Trainings(Terms(Jhat, "deep_ensemble"), starts, randomize, seed)
    return trainings.run(settings)


class _Trainings:
    """Trainings one after the other, each with its own draws."""

    def __init__(self, terms: Terms, starts: int | ArrayLike, randomize: bool, seed: int):
        check_whole("seed", seed)
        self._terms, self._seed = terms, seed
        self._starts: np.ndarray | None = None
        if isinstance(starts, (int, np.integer)):
            check_whole("starts", starts, least=1)
            self._n = int(starts)
        else:
            self._starts = self._checked(np.asarray(starts, dtype=float))
            self._n = len(self._starts)
        self._means = self._prior_means()
        self._misfits = _misfits(terms) if randomize else {}
        robust = [summary.robust for summary in terms.summaries() if summary.robust]
        if randomize and robust:
            raise ValueError(
                f"deep_ensemble: a misfit has the loss {robust[0]}, whose errors cannot be drawn: "
                "leave out the loss, or take randomize=False."
            )
        self._randomize = randomize

    def run(self, settings: dict[str, Any]) -> DeepEnsemble:
        """All of them."""
        terms, first = self._terms, self._terms.controls.read()
        results, draws = [], []
        try:
            for i in range(self._n):
                with self._drawn(i) as anchor:
                    self._begin(i, anchor)
                    results.append(fit(terms.Jhat, **settings))
                    draws.append(terms.controls.read())
            losses = [from_rank_zero(terms.controls.comm, float(terms.evaluate(x))) for x in draws]
        finally:
            terms.controls.write(first)
            terms.evaluate(first)
        return DeepEnsemble(np.array(draws), np.array(losses), tuple(results), terms)

    @contextmanager
    def _drawn(self, i: int) -> Iterator[np.ndarray]:
        """Data and priors' means of one training, while it lasts; gives a draw of the priors."""
        random = np.random.default_rng([self._seed, i])
        numbers = random.standard_normal(len(self._means))
        anchor = self._terms.metric.point(numbers) + self._means
        try:
            if self._randomize:
                self._shift_priors(anchor)
                for key, block in self._misfits.items():
                    own = np.random.default_rng([self._seed, i, *key])
                    block.shift = own.standard_normal(len(block.residuals))
                self._forget()
            yield anchor
        finally:
            self._shift_priors(self._means)
            for block in self._misfits.values():
                block.shift = np.zeros(1)
            self._forget()

    def _begin(self, i: int, anchor: np.ndarray) -> None:
        """Give the controls values for which the model has one."""
        if self._starts is None:
            widths = 0.5 ** np.arange(STARTS)
            starts = self._means + widths[:, None] * (anchor - self._means)
        else:
            starts = self._starts[i : i + 1]
        for x in starts:
            if self._runs(x):
                self._terms.controls.write(x)
                return
        raise RuntimeError(
            f"deep_ensemble: the model failed for all {len(starts)} starts of training {i}: make "
            "its solver more robust, or give starts nearer to values for which it has a solution."
        )

    def _runs(self, x: np.ndarray) -> bool:
        try:
            return bool(np.isfinite(self._terms.evaluate(x)))
        except fd.ConvergenceError:
            return False

    def _shift_priors(self, means: np.ndarray) -> None:
        for place, prior in self._terms.priors:
            prior.mean = means[place]

    def _forget(self) -> None:
        """Let ensembles' members know that their data are others."""
        for block in self._terms.data:
            likelihood = self._terms.likelihood(block)
            if isinstance(likelihood, Likelihood):
                likelihood.forget()

    def _prior_means(self) -> np.ndarray:
        """Zero where there is no prior, and starts are given."""
        terms, means = self._terms, np.zeros(len(self._terms.controls))
        known = {place.start for place, _ in terms.priors}
        for place, control in zip(terms.places, terms.objects, strict=True):
            if place.start not in known and self._starts is None:
                raise terms.no_prior(control)
        for place, prior in terms.priors:
            means[place] = prior.mean
        return means

    def _checked(self, starts: np.ndarray) -> np.ndarray:
        n = len(self._terms.controls)
        if starts.ndim != 2 or starts.shape[1] != n or not len(starts):
            raise ValueError(
                f"deep_ensemble got starts of shape {starts.shape}: wanted (n, {n}), a row for "
                "each training with a value for each entry of the controls, or how many."
            )
        if not np.isfinite(starts).all():
            raise ValueError("deep_ensemble got starts that are NaN or infinite: wanted numbers.")
        return starts


def _misfits(terms: Terms) -> dict[tuple[int, int, int], SumOfSquares]:
    """The sums of squares, with keys for draws that do not depend on groups of ranks."""
    found: dict[tuple[int, int, int], SumOfSquares] = {}
    for i, block in enumerate(terms.data):
        likelihood = terms.likelihood(block)
        if isinstance(likelihood, Likelihood):
            found |= {(i, 1 + member, k): b for (member, k), b in likelihood.numbered().items()}
        else:
            found[i, 0, 0] = likelihood
    return found
