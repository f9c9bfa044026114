"""Precisions of priors and the noise's size from the data: MacKay's evidence framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import firedrake as fd
import numpy as np
from mpi4py import MPI
from pyadjoint import ReducedFunctional
from pyadjoint.tape import stop_annotating

from femnn.autograd.values import array_of, like
from femnn.ensembles.likelihood import Likelihood
from femnn.inference.posterior import LaplacePosterior
from femnn.inference.terms import Expansion, Misfit, Terms
from femnn.parallel import any_rank, on_all_ranks
from femnn.tape.counts import Solves, count, counting
from femnn.tape.model import blocks_behind
from femnn.tape.squares import Summary
from femnn.training.fit import fit
from femnn.training.settings import check_number, check_whole

# How far a precision or a variance may go in one round; what data say nothing of would go on.
STEP = 100.0
LARGEST = 1e12


@dataclass(frozen=True)
class EvidenceResult:
    """What :func:`femnn.fit_with_evidence` did.

    Attributes
    ----------
    posterior : LaplacePosterior
        The posterior at the last values.
    history : list of float
        The log evidence after each round.
    converged : bool
        Whether it changed by less than the tolerance in the last round, and would change by less
        if the fit went on to the minimum.
    solves : Solves
        Runs of the model and its derivatives, as in the result of :func:`femnn.fit`.
    """

    posterior: LaplacePosterior
    history: list[float] = field(repr=False)
    converged: bool
    solves: Solves


def fit_with_evidence(
    Jhat: ReducedFunctional,
    *,
    rounds: int = 50,
    tol: float = 0.1,
    maxiter: int = 10,
    callback: Callable[[LaplacePosterior], Any] | None = None,
    progress: bool = True,
) -> EvidenceResult:
    """Fit, with the priors' precisions and the noise's size from the data.  Collective.

    Rounds of a fit by Gauss and Newton's method and of a step that makes the data more probable:
    a precision becomes the number of parameters that the data determine in its group, divided by
    their sum of squares; the noise's variance the sum of squared residuals, divided by the number
    of data that are left.  Nothing is to be stopped early or tuned on data held out.

    Parameters
    ----------
    Jhat
        As for :func:`femnn.laplace`.  What is estimated are the precisions of each prior,
        :class:`~femnn.GaussianPrior` or :class:`~femnn.FieldPrior`, that is not ``fixed``, and each
        Constant that is the
        ``scale`` of :class:`~femnn.Observations`; all begin with the values that they have.
    rounds
        At most.
    tol
        Ends where the log evidence changes by less in a round, and the minimum is nearer than
        ``sqrt(2 * tol)`` posterior standard deviations.
    maxiter
        Iterations of the fit in each round, at most.
    callback
        Called as ``callback(posterior)`` after each round, on every rank; a true value ends.  What
        it raises on one rank is raised on all.
    progress
        Whether rank 0 shows live progress of each fit.

    Returns
    -------
    EvidenceResult
        ``result.posterior`` is what :func:`femnn.laplace` gives then.  Networks, priors and scales
        have the last values.

    Raises
    ------
    RuntimeError
        If the tape has no Gauss-Newton matrix, or the callback has raised an error on another rank.
    TypeError
        If a control is of no known kind, or a setting of another one.
    ValueError
        If there is nothing to estimate, a scale is a control, a misfit has a loss that is not half
        the square, an ensemble's members have several scales or one that ``build`` has made, a
        group of ranks has no member, or as for :func:`femnn.laplace`.

    Notes
    -----
    Begin with a scale of the noise that is too small.  One that is too large may stay: the law is
    too simple then, and the rest counts as noise.  Of several starts that with the largest
    ``log_evidence`` is the most probable one.

    References
    ----------
    D. J. C. MacKay, Bayesian interpolation, and A practical Bayesian framework for backpropagation
    networks, Neural Computation 4 (1992).

    Examples
    --------
    >>> noise = Constant(1e-3)
    >>> data = Observations(stations, values, scale=noise)
    >>> J = data.misfit(u) + GaussianPrior(kappa.weights).energy()
    >>> result = fit_with_evidence(ReducedFunctional(J, Control(kappa.weights)))
    >>> float(noise), result.posterior.effective_parameters
    """
    check_whole("rounds", rounds, least=1, who="fit_with_evidence")
    check_whole("maxiter", maxiter, least=1, who="fit_with_evidence")
    check_number("tol", tol, least=0.0, who="fit_with_evidence")
    terms = Terms(Jhat, "fit_with_evidence")
    terms.check_normal(terms.summaries())
    unknown, solves = Unknown(terms), Solves()
    history: list[float] = []
    while True:
        with counting() as counts:
            ended = fit(Jhat, "gauss-newton", maxiter=maxiter, progress=progress).reason
            at = _expanded(terms)
        solves += counts
        posterior = LaplacePosterior(terms, at)
        history.append(posterior.log_evidence)
        settled = len(history) > 1 and abs(history[-1] - history[-2]) <= tol
        # The minimum is lower by half the squared distance.
        converged = settled and 0.5 * posterior.distance**2 <= tol
        stop = callback is not None and _asks_to_stop(terms.controls.comm, callback, posterior)
        if converged or stop or len(history) == rounds or ended == "interrupted":
            return EvidenceResult(posterior, history, converged, solves)
        unknown.update(at)


def _expanded(terms: Terms) -> Expansion:
    """The functional near the best values.  Collective."""
    count("forward")
    count("adjoint")
    return terms.expand()


def _asks_to_stop(
    comm: MPI.Comm, callback: Callable[[LaplacePosterior], Any], posterior: LaplacePosterior
) -> bool:
    """Whether the callback ends the rounds on any rank.  Collective."""
    elsewhere = "fit_with_evidence: the callback raised an error on another rank: see its message."
    return any_rank(comm, on_all_ranks(comm, callback, posterior, elsewhere=elsewhere))


class Unknown:
    """What is estimated: precisions and scales.

    Parameters
    ----------
    terms
        What the functional is the sum of.

    Raises
    ------
    ValueError
        If there is nothing to estimate, or a scale is a control.
    """

    def __init__(self, terms: Terms):
        self._priors = [(place, prior) for place, prior in terms.priors if not prior.fixed]
        self._terms = terms
        self._scales: dict[Any, list[Misfit]] = {}
        for block in terms.data:
            scale = terms.likelihood(block).scale
            if scale is not None:
                self._scales.setdefault(scale, []).append(block)
        blocks = list(blocks_behind(terms.Jhat.functional, terms.Jhat.tape))
        nodes = {bv for block in blocks for bv in block.get_dependencies()}
        self._nodes = {s: [bv for bv in nodes if bv.output is s] for s in self._scales}
        self._check(terms)

    def update(self, at: Expansion) -> None:
        """Take the values of MacKay's fixed point, from an expansion at the best controls."""
        by_data = at.gaussian.known_by_data()
        misfits = len(self._terms.data)
        for place, prior in self._priors:
            prior.precision = _precision(prior, at.z[place], by_data[place])
        with stop_annotating():
            for scale, blocks in self._scales.items():
                value = float(array_of(scale).item())
                data = [self._terms.likelihood(block).summary() for block in blocks]
                self._set(scale, value * _growth(data, at.used_by(blocks, misfits)))

    def _set(self, scale: Any, value: float) -> None:
        """Give a scale, and what the tape holds of it, a value."""
        new = like(scale, np.full(array_of(scale).shape, value))
        scale.assign(new)
        for node in self._nodes[scale]:
            node.save_output()
        for block in self._scales[scale]:
            told = self._terms.likelihood(block)
            if isinstance(told, Likelihood):
                told.refresh()

    def _check(self, terms: Terms) -> None:
        for scale in self._scales:
            if any(control is scale for control in terms.objects):
                name = scale.name if isinstance(scale, fd.Constant) else scale.name()
                raise ValueError(
                    f"fit_with_evidence: the scale {name} of the errors is a control: leave it out "
                    "of the controls, as it is estimated from the evidence."
                )
        if not self._priors and not self._scales:
            raise ValueError(
                "fit_with_evidence: nothing is to be estimated: wanted a GaussianPrior without "
                "fixed=True, or Observations(..., scale=Constant(0.1))."
            )


def _precision(prior: Any, z: np.ndarray, by_data: np.ndarray) -> np.ndarray:
    """The precisions that the entries of the groups say, both in the prior's units."""
    known, size = prior.by_group(by_data), prior.by_group(z**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(known / size, nan=1.0, posinf=STEP)
    precision = prior.precision * np.clip(ratio, 1 / STEP, STEP)
    return np.clip(precision, 1 / LARGEST, LARGEST)


def _growth(data: list[Summary], used: float) -> float:
    """The factor by which the errors are larger than the scale says."""
    squares, n = sum(d.squares for d in data), sum(d.n for d in data)
    left = max(n - used, 1e-3 * n)
    return float(np.sqrt(np.clip(squares / left, 1 / STEP, STEP)))
