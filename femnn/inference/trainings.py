"""Trainings of one functional, each with data and priors' means that are drawn anew."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import firedrake as fd
import numpy as np
from numpy.typing import ArrayLike

from femnn.ensembles.likelihood import Likelihood
from femnn.inference.terms import MISFITS, PRIORS, Terms
from femnn.parallel import from_rank_zero, vector_from_rank_zero
from femnn.tape.columns import factors_of
from femnn.tape.squares import LogErrors, SumOfSquares
from femnn.training.controls import ControlVector
from femnn.training.fit import fit
from femnn.training.result import FitResult
from femnn.training.settings import check_whole

# Draws for a start, each from half the width of the one before.
STARTS = 6


class Trainings:
    """Trainings one after the other, each with its own draws.

    Parameters
    ----------
    terms
        What the functional is the sum of.
    starts, randomize, seed, bounds
        As for :func:`femnn.deep_ensemble`.
    """

    def __init__(
        self, terms: Terms, starts: int | ArrayLike, randomize: bool, seed: int, bounds: Any
    ):
        check_whole("seed", seed, who="deep_ensemble")
        self._terms, self._seed, self._randomize = terms, seed, randomize
        self._bounds = None if bounds is None else ControlVector(terms.Jhat, bounds).bounds
        self._starts: np.ndarray | None = None
        if isinstance(starts, (int, np.integer)):
            check_whole("starts", starts, least=1, who="deep_ensemble")
            self._n = int(starts)
        else:
            self._starts = self._checked(np.asarray(starts, dtype=float))
            self._n = len(self._starts)
        if self._starts is None:
            terms.check_priors()
        self._means = terms.prior_mean
        self._misfits = _misfits(terms) if randomize else {}
        if randomize:
            _check_drawn(terms)

    def run(self, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, tuple[FitResult, ...]]:
        """All of them, or those until Ctrl-C.  Collective.

        Parameters
        ----------
        settings
            Of :func:`femnn.fit`.

        Returns
        -------
        draws : numpy.ndarray
            The controls' values, shape ``(n, n_entries)``.
        losses : numpy.ndarray
            The functional there, with the data as they are, shape ``(n,)``.
        results : tuple of FitResult
            One for each.
        """
        terms, first = self._terms, self._terms.controls.read()
        results: list[FitResult] = []
        draws: list[np.ndarray] = []
        try:
            for i in range(self._n):
                result = self._train(i, settings)
                if result is not None and result.reason == "interrupted":
                    break
                if result is not None:
                    results.append(result)
                    draws.append(terms.controls.read())
            if not results:
                raise self._nothing(result)
            losses = np.array([self._value(x) for x in draws])
        finally:
            terms.controls.write(first)
            if not np.isfinite(self._value(first)):
                warnings.warn(
                    "deep_ensemble: the model fails at the values that the controls had before: "
                    "evaluate the reduced functional elsewhere before you take derivatives.",
                    stacklevel=3,
                )
        return np.array(draws), losses, tuple(results)

    def _train(self, i: int, settings: dict[str, Any]) -> FitResult | None:
        """One training, or ``None`` where the model fails at its start."""
        with self._drawn(i) as anchor:
            if self._begin(i, anchor):
                return fit(self._terms.Jhat, **settings)
        warnings.warn(
            f"deep_ensemble: the model failed at the start of training {i}, which is left out: "
            "make its solver more robust, or give starts nearer to values for which it has a "
            "solution.",
            stacklevel=4,
        )
        return None

    @staticmethod
    def _nothing(last: FitResult | None) -> BaseException:
        if last is not None:
            return KeyboardInterrupt()
        return RuntimeError(
            "deep_ensemble: the model failed at all starts: make its solver more robust, or give "
            "starts nearer to values for which it has a solution."
        )

    def _value(self, x: np.ndarray) -> float:
        """The functional, NaN where the model fails.  Collective."""
        try:
            value = float(self._terms.evaluate(x))
        except fd.ConvergenceError:
            value = np.nan
        return from_rank_zero(self._terms.controls.comm, value)

    @contextmanager
    def _drawn(self, i: int) -> Iterator[np.ndarray]:
        """Data and priors' means of one training, while it lasts; gives a draw of the priors."""
        random = np.random.default_rng([self._seed, i])
        numbers = random.standard_normal(len(self._means))
        anchor = self._terms.metric.point(numbers) + self._means
        anchor = vector_from_rank_zero(self._terms.controls.comm, anchor)
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

    def _begin(self, i: int, anchor: np.ndarray) -> bool:
        """Give the controls values for which the model has one, if there are any."""
        if self._starts is None:
            widths = 0.5 ** np.arange(STARTS)
            starts = self._means + widths[:, None] * (anchor - self._means)
            if self._bounds is not None:
                starts = np.array([self._bounds.clip(x) for x in starts])
        else:
            starts = self._starts[i : i + 1]
        for x in starts:
            if np.isfinite(self._value(x)):
                self._terms.controls.write(x)
                return True
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


def _check_drawn(terms: Terms) -> None:
    """Raise where the functional has something of which there are no draws.  Collective."""
    robust = [summary.robust for summary in terms.summaries() if summary.robust]
    if robust:
        raise ValueError(
            f"deep_ensemble: a misfit has the loss {robust[0]}, whose errors cannot be drawn: "
            "leave out the loss, or take randomize=False."
        )
    factors = factors_of(terms.Jhat.functional, terms.Jhat.controls, terms.Jhat.tape)
    if factors is None:
        raise ValueError(
            "deep_ensemble: the functional is no sum of misfits and energies: wanted J = "
            "data.misfit(u) + prior.energy(), or randomize=False."
        )
    known = [prior for _, prior in terms.priors]
    for block, factor in factors.items():
        is_energy = isinstance(block, PRIORS) and any(block.prior is prior for prior in known)
        if is_energy or isinstance(block, (*MISFITS, LogErrors)):
            terms.check_factor(block, factor)
        elif factor:
            raise ValueError(
                f"deep_ensemble: the functional has a {block} that is no energy of a control's "
                "prior, so that it cannot be drawn: leave it out, or take randomize=False."
            )


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
