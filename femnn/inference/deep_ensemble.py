"""Trainings from several starts, with data drawn anew: the plain alternative to a posterior."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.inference.summaries import laws_of
from femnn.inference.terms import Terms
from femnn.inference.trainings import Trainings
from femnn.training.result import FitResult

OWN = ("callback", "checkpoint", "checkpoint_every", "resume")


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
    approximation around one of them does not know.  Errors whose size is estimated by a control
    are drawn in the size that is found, so that the spread of the size itself is too small, by 1.4
    for a common one.  What fields are drawn depends on the number of ranks.

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
        ``draws``, ``losses`` and ``law(net, points)``; after Ctrl-C of those that had ended.
        Controls, data and priors are as before afterwards, and the model has been run there; an
        initial state in a time loop has its first value.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, where no training had ended.
    RuntimeError
        If the model fails at all starts.
    TypeError
        If a setting is of another kind, or :func:`femnn.fit` does not know it.
    ValueError
        If the functional has no misfit of Observations, a control has no prior from which to
        start, or what is to be drawn anew has a factor, a loss that is not the square, or is a
        penalty; ``starts`` are of another shape; or a setting is one that each training would need
        for itself.

    Warns
    -----
    UserWarning
        If the model fails at a start, which is left out.

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
    terms, bounds = Terms(Jhat, "deep_ensemble"), settings.get("bounds")
    draws, losses, results = Trainings(terms, starts, randomize, seed, bounds).run(settings)
    return DeepEnsemble(draws, losses, results, terms)
