"""Chains of the posterior itself, started from its normal approximation; without derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import firedrake as fd
import numpy as np

from femnn.inference.diagnostics import effective_draws, r_hat
from femnn.inference.posterior import LaplacePosterior
from femnn.parallel import from_rank_zero, vector_from_rank_zero
from femnn.training.settings import check_number, check_whole

METHODS = ("h-pcn", "pcn")
# The share of proposals that is wanted, in the middle of what is best in few and many dimensions.
WANTED = 0.3
# Draws for a chain's start, each from half the width of the one before.
STARTS = 6


@dataclass(frozen=True)
class Chains:
    """Draws of a posterior by several chains.

    Attributes
    ----------
    draws : numpy.ndarray
        The controls' values, shape ``(n_chains, n_draws, n_entries)``, the same on every rank.
    log_density : numpy.ndarray
        The posterior's logarithm for each, up to a constant, shape ``(n_chains, n_draws)``.
    accepted : float
        The share of proposals that were taken.
    step : numpy.ndarray
        The step of each chain, shape ``(n_chains,)``.
    solves : int
        How often the model was run, the warm-up included.
    """

    draws: np.ndarray
    log_density: np.ndarray
    accepted: float
    step: np.ndarray
    solves: int

    @property
    def r_hat(self) -> np.ndarray:
        """The factor by which the spread may still be too small, shape ``(n_entries,)``.

        Of split chains (Gelman and Rubin); wanted are numbers below 1.01 to 1.1.
        """
        return r_hat(self.draws)

    @property
    def ess(self) -> np.ndarray:
        """How many independent draws the chains are worth for a mean, shape ``(n_entries,)``."""
        return effective_draws(self.draws)

    @property
    def mean(self) -> np.ndarray:
        """The mean of each entry, shape ``(n_entries,)``."""
        return self.draws.mean((0, 1))

    @property
    def std(self) -> np.ndarray:
        """The standard deviation of each entry, shape ``(n_entries,)``."""
        return self.draws.std((0, 1))

    def __repr__(self) -> str:
        n, m = self.draws.shape[:2]
        return (
            f"Chains({n} of {m} draws, {self.accepted:.0%} accepted, {self.solves} solves, "
            f"ESS {self.ess.min():.0f} to {self.ess.max():.0f}, R-hat up to {self.r_hat.max():.3f})"
        )


def chains(
    posterior: LaplacePosterior,
    n: int,
    *,
    n_chains: int = 4,
    warm_up: int | None = None,
    thin: int = 1,
    method: str = "h-pcn",
    step: float | None = None,
    seed: int = 0,
) -> Chains:
    """Draws of the posterior itself, by Markov chains from its normal approximation.  Collective.

    ``"h-pcn"`` proposes from the normal approximation, so that a chain is as good as this is near,
    whatever the number of controls; ``"pcn"`` from the prior.  Neither takes derivatives.  A model
    that fails is a proposal that is not taken; a first draw for which it fails is taken from a
    density that is narrower by half.

    Parameters
    ----------
    posterior
        What :func:`femnn.laplace` gave.
    n
        Draws of each chain that are kept.
    n_chains
        How many chains, each from a draw of the approximation.
    warm_up
        Steps before, in which the step's length is found; by default a quarter of ``n * thin``.
    thin
        Every how many steps a draw is kept.
    method
        ``"h-pcn"`` or ``"pcn"``.
    step
        The proposals' length, between 0 and 1: the part of a proposal that is new is its square.
        By default that of which about 30 % are taken.
    seed
        Of numpy's random generator.

    Returns
    -------
    Chains
        ``draws``, ``mean``, ``std``, ``ess`` and ``r_hat``.  The model has been run at the
        approximation's mean afterwards, and the controls have not changed.

    Raises
    ------
    RuntimeError
        If the model fails near the approximation's mean too.
    TypeError
        If the posterior is another object, or a setting of another kind.
    ValueError
        If a setting is out of its range, or for ``"pcn"`` a control has no prior.

    References
    ----------
    S. L. Cotter, G. O. Roberts, A. M. Stuart, D. White, Statist. Sci. 28 (2013), for pCN;
    F. J. Pinski, G. Simpson, A. M. Stuart, H. Weber, SIAM J. Sci. Comput. 37 (2015), and
    K.-T. Kim, U. Villa, M. Parno, Y. Marzouk, O. Ghattas, N. Petra, ACM Trans. Math. Softw. 49
    (2023), for h-pCN.

    Examples
    --------
    >>> posterior = laplace(Jhat)
    >>> draws = chains(posterior, 2000)
    >>> draws.r_hat.max(), draws.ess.min()
    """
    if not isinstance(posterior, LaplacePosterior):
        raise TypeError(
            f"chains got a {type(posterior).__name__}: wanted the posterior of femnn.laplace(Jhat)."
        )
    if method not in METHODS:
        raise ValueError(f"chains got method={method!r}: wanted one of {list(METHODS)}.")
    check_whole("n", n, least=4, who="chains")
    check_whole("n_chains", n_chains, least=1, who="chains")
    check_whole("thin", thin, least=1, who="chains")
    warm_up = n * thin // 4 if warm_up is None else warm_up
    check_whole("warm_up", warm_up, who="chains")
    if step is not None:
        check_number("step", step, least=0.0, who="chains")
        if not 0 < step <= 1:
            raise ValueError(f"chains got step={step}: wanted a number between 0 and 1.")
    reference = Around(posterior) if method == "h-pcn" else Before(posterior)
    random = np.random.default_rng(seed)
    made = [Chain(posterior, reference, part, step) for part in random.spawn(n_chains)]
    found = [chain.run(n, warm_up, thin) for chain in made]
    posterior.terms.evaluate(posterior.mean)
    draws, log_density, accepted, steps = map(np.array, zip(*found, strict=True))
    solves = sum(chain.solves for chain in made)
    return Chains(draws, log_density, float(accepted.mean()), steps, solves)


class Reference(Protocol):
    """The normal density that proposals keep.

    Attributes
    ----------
    mean : numpy.ndarray
        Shape ``(n,)``.
    """

    mean: np.ndarray

    def change(self, z: np.ndarray) -> np.ndarray:
        """What is added to the mean, for independent normal numbers, shape ``(n,)``."""

    def start(self, random: np.random.Generator, width: float) -> np.ndarray:
        """Numbers where a chain starts, of the approximation with deviations times a width."""


class Around:
    """The normal approximation; see :class:`Reference`."""

    def __init__(self, posterior: LaplacePosterior):
        self.mean, self._gaussian = posterior.mean, posterior.gaussian

    def change(self, z: np.ndarray) -> np.ndarray:
        """See :class:`Reference`."""
        return self._gaussian.changes(z[:, None])[:, 0]

    def start(self, random: np.random.Generator, width: float) -> np.ndarray:
        """See :class:`Reference`."""
        return width * random.standard_normal(len(self.mean))


class Before:
    """The prior; see :class:`Reference`."""

    def __init__(self, posterior: LaplacePosterior):
        terms = posterior.terms
        if len(terms.priors) < len(terms.objects):
            raise ValueError("chains: a control has no prior of its own: take method='h-pcn'.")
        self.mean, self._metric = terms.prior_mean, terms.metric
        self._posterior = posterior

    def change(self, z: np.ndarray) -> np.ndarray:
        """See :class:`Reference`."""
        return self._metric.point(z)

    def start(self, random: np.random.Generator, width: float) -> np.ndarray:
        """See :class:`Reference`."""
        numbers = width * random.standard_normal(len(self.mean))
        draw = self._posterior.mean + self._posterior.gaussian.changes(numbers[:, None])[:, 0]
        return self._metric.coordinates(draw - self.mean)


class Chain:
    """One chain, in the numbers of a reference that are independent and normal under it.

    Parameters
    ----------
    posterior
        The posterior's approximation.
    reference
        The density that proposals keep.
    random
        The chain's generator.
    step
        The proposals' length, or ``None`` to find it.
    """

    def __init__(
        self,
        posterior: LaplacePosterior,
        reference: Reference,
        random: np.random.Generator,
        step: float | None,
    ):
        self._terms, self._reference, self._random = posterior.terms, reference, random
        self._comm = posterior.terms.controls.comm
        self._fixed, self.step = step is not None, step or 0.3
        self.solves = 0
        self._begin()

    def _begin(self) -> None:
        """Start where the model has a value."""
        for narrower in range(STARTS):
            self._z = self._reference.start(self._random, 0.5**narrower)
            self._x, self._energy = self._evaluate(self._z)
            if np.isfinite(self._energy):
                return
        raise RuntimeError(
            f"chains: the model failed for {STARTS} draws, the last one {0.5 ** (STARTS - 1):g} "
            "posterior standard deviations from the mean: solve at the mean first, make its "
            "solver more robust, or look whether laplace(Jhat) was made at a minimum."
        )

    def run(self, n: int, warm_up: int, thin: int) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Draws with the logarithm of their density, the share accepted and the step."""
        for i in range(warm_up):
            taken = self._move()
            if not self._fixed:  # steps that shrink, so that it settles (Robbins and Monro)
                self._adapt(taken, 1 / np.sqrt(1 + 0.1 * i))
        draws, log_density, accepted = [], [], 0.0
        for i in range(n * thin):
            accepted += self._move()
            if (i + 1) % thin == 0:
                draws.append(self._x)
                log_density.append(-self._energy)
        return np.array(draws), np.array(log_density), accepted / (n * thin), self.step

    def _move(self) -> bool:
        """One step of the chain; whether the proposal was taken.  Collective."""
        kept, new = np.sqrt(1 - self.step**2), self._random.standard_normal(len(self._z))
        z = kept * self._z + self.step * new
        x, energy = self._evaluate(z)
        # The proposals keep the reference, so that only what differs from it decides.
        excess = energy - 0.5 * float(z @ z)
        present = self._energy - 0.5 * float(self._z @ self._z)
        draw = np.log(self._random.uniform())
        taken = from_rank_zero(self._comm, bool(draw < present - excess))
        if taken:
            self._z, self._x, self._energy = z, x, energy
        return taken

    def _adapt(self, taken: bool, gain: float) -> None:
        logit = np.log(self.step / (1 - self.step)) + gain * (float(taken) - WANTED)
        self.step = float(np.clip(1 / (1 + np.exp(-logit)), 1e-4, 1 - 1e-4))

    def _evaluate(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        """The controls' values and minus the logarithm of the posterior; infinite if it fails."""
        x = vector_from_rank_zero(self._comm, self._reference.mean + self._reference.change(z))
        self.solves += 1
        try:
            energy = float(self._terms.evaluate(x))
        except fd.ConvergenceError:
            return x, np.inf
        return x, from_rank_zero(self._comm, energy if np.isfinite(energy) else np.inf)
