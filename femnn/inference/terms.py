"""A functional as minus the logarithm of a posterior density: data, priors and penalties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import ReducedFunctional
from pyadjoint.enlisting import Enlist
from pyadjoint.tape import stop_annotating

from femnn.ensembles.block import EnsembleBlock
from femnn.ensembles.likelihood import Likelihood
from femnn.ensembles.shared import name_of
from femnn.inference.field_energy import FieldPriorBlock
from femnn.inference.gaussian import Directions, Gaussian, LowRank
from femnn.inference.low_rank import Products, by_data, eigenpairs
from femnn.inference.prior import PriorBlock
from femnn.parallel import from_rank_zero, vector_from_rank_zero
from femnn.tape.columns import factors_of, gauss_newton_parts
from femnn.tape.model import blocks_behind
from femnn.tape.squares import LogErrors, Summary, SumOfSquares
from femnn.training.controls import ControlVector
from femnn.training.loss import check_functional
from femnn.training.metrics import Joined

Misfit = SumOfSquares | EnsembleBlock
MISFITS = (SumOfSquares, EnsembleBlock)
PRIORS = (PriorBlock, FieldPriorBlock)
WANTED = "wanted J = data.misfit(u) + prior.energy(), with Observations and a GaussianPrior"


# Numbers for which all directions are taken: over the tape together, or one after the other; and
# data for which an adjoint run each is less than random directions want.
LARGEST, SINGLY, FEW = 2000, 200, 100


@dataclass(frozen=True)
class Expansion:
    """The functional near a point, to second order.

    Attributes
    ----------
    vector
        The controls' values, shape ``(n,)``.
    value
        The functional.
    gradient
        Its gradient, shape ``(n,)``.
    data
        For each misfit its Gauss-Newton matrix in the priors' units, shape ``(n, n)``, where
        these were made.
    gaussian
        Prior and data together.
    z
        How far the values are from the priors' means, in the priors' units, shape ``(n,)``.
    """

    vector: np.ndarray
    value: float
    gradient: np.ndarray
    data: dict[Misfit, np.ndarray]
    gaussian: Directions
    z: np.ndarray

    def used_by(self, blocks: list[Misfit], misfits: int) -> float:
        """How many parameters the data of some of all misfits determine.

        Raises
        ------
        ValueError
            If it is not known which of the misfits says what.
        """
        if len(blocks) == misfits:
            return float(self.gaussian.shares.sum())
        if not isinstance(self.gaussian, Gaussian) or not self.data:
            raise ValueError(
                "fit_with_evidence: several scales are estimated, and the directions are not "
                f"complete: wanted one scale for all data, or at most {LARGEST} numbers."
            )
        factor = self.gaussian.metric.coordinates(self.gaussian.factor)
        return sum(float(np.vdot(self.data[b] @ factor, factor)) for b in blocks if b in self.data)


class Terms:
    """What a functional is the sum of.  Collective.

    Parameters
    ----------
    Jhat
        The reduced functional; controls are weights, Constants and fields.
    who
        Who asks, for messages.

    Attributes
    ----------
    controls : ControlVector
        Its controls, joined.
    objects : list of Weights, Constants and Functions
        What the user holds of each.
    places : list of slice
        The place of each in the joined vector.
    data : list of SumOfSquares and EnsembleBlock
        The misfits behind it; all those of an ensemble's members are one.
    priors : list of (slice, GaussianPrior or FieldPrior)
        The priors of controls, with the controls' places in the vector.
    """

    def __init__(self, Jhat: ReducedFunctional, who: str):
        check_functional(Jhat)
        self.Jhat, self._who = Jhat, who
        self.controls = ControlVector(Jhat)
        self.objects = [c.control for c in Enlist(Jhat.controls)]
        self.places = self.controls.places
        blocks = list(blocks_behind(Jhat.functional, Jhat.tape))
        self.data = [b for b in blocks if isinstance(b, MISFITS)]
        ensembles = [b for b in self.data if isinstance(b, EnsembleBlock)]
        self._ensembles = {b: Likelihood(b, who) for b in ensembles}
        if not self.data:
            raise ValueError(f"{who}: the functional has no misfit of Observations: {WANTED}.")
        self._energies = [b for b in blocks if isinstance(b, PRIORS)]
        self.priors = self._found([b.prior for b in self._energies])

    def summaries(self) -> list[Summary]:
        """Each misfit where the functional was evaluated last.  Collective."""
        return [self.likelihood(block).summary() for block in self.data]

    def likelihood(self, block: Misfit) -> SumOfSquares | Likelihood:
        """What says of a misfit how many data it has, and of which scale."""
        return self._ensembles[block] if isinstance(block, EnsembleBlock) else block

    @property
    def metric(self) -> Joined:
        """The precision of all priors, as they are now."""
        known = {place.start: prior.metric for place, prior in self.priors}
        metrics = [known.get(place.start) for place in self.places]
        return Joined(metrics, np.array([place.stop for place in self.places]))

    def expand(
        self, vector: np.ndarray | None = None, rank: int | None = None, exact: bool = False
    ) -> Expansion:
        """The functional near a point, by default the controls' present values.  Collective.

        The functional has been evaluated there afterwards.

        Parameters
        ----------
        vector
            Shape ``(n,)``.
        rank
            How many directions to take; by default all, or as many as data say something of.
        exact
            Whether with the Hessian in the place of Gauss and Newton's matrix.

        Raises
        ------
        RuntimeError
            If the Hessian is not positive definite.
        ValueError
            If a misfit or an energy has a factor, or a direction has no prior.
        """
        vector = self.controls.read() if vector is None else vector
        metric, comm = self.metric, self.controls.comm
        with stop_annotating():
            value = from_rank_zero(comm, float(self.evaluate(vector)))
            factors = factors_of(self.Jhat.functional, self.Jhat.controls, self.Jhat.tape)
            gradient = self.controls.flat(self.Jhat.derivative())
        gradient = vector_from_rank_zero(comm, gradient)
        found: tuple[dict[Misfit, np.ndarray], Directions] | None = None
        if rank is None and not exact and len(vector) <= LARGEST:
            found = self._matrices(metric)
        data, gaussian = found or ({}, self._directions(factors, metric, rank, exact))
        return Expansion(vector, value, gradient, data, gaussian, self._numbers(vector))

    def products(self, exact: bool = False) -> Products:
        """Products with the misfits' second derivatives, in the priors' units."""
        return Products(self.Jhat, self.controls, self.data, self.metric, exact)

    def _numbers(self, vector: np.ndarray) -> np.ndarray:
        """The values in the priors' units; zero where there is no prior."""
        z = np.zeros(len(vector))
        for place, prior in self.priors:
            z[place] = prior.metric.coordinates(vector[place] - prior.mean)
        return z

    def _matrices(self, metric: Joined) -> tuple[dict[Misfit, np.ndarray], Directions] | None:
        """Each misfit's matrix, and the posterior, where one sweep over the tape gives them."""
        n = len(self.controls)
        directions = self.controls.rows(metric.point(np.eye(n)))
        parts = gauss_newton_parts(
            self.Jhat.functional, self.Jhat.controls, self.Jhat.tape, directions
        )
        if parts is None:
            return None
        prior, data = np.zeros((2, n, n))
        misfits = {}
        for part in parts:
            matrix = vector_from_rank_zero(self.controls.comm, part.matrix)
            if isinstance(part.block, (*MISFITS, *PRIORS)):
                self.check_factor(part.block, part.factor)
            if isinstance(part.block, MISFITS):
                misfits[part.block] = matrix
                data += matrix
            else:
                prior += matrix
        return misfits, self._gaussian(prior, data, metric)

    def _directions(
        self, factors: dict | None, metric: Joined, rank: int | None, exact: bool
    ) -> Directions:
        """The posterior by products alone."""
        self._check_sum(factors)
        if rank is None and not exact and self._has_few_data:
            return LowRank(*by_data(self.Jhat, self.controls, self.data, metric), metric, 0.0)
        n, product = len(self.controls), self.products(exact)
        if rank is None and n <= SINGLY:
            data = product(np.eye(n))
            try:
                return Gaussian(np.eye(n), 0.5 * (data + data.T), metric)
            except np.linalg.LinAlgError:
                raise self._no_minimum() from None
        values, vectors, neglected = eigenpairs(product, n, self.controls.comm, rank)
        if values.min(initial=0.0) <= -1:
            raise self._no_minimum()
        return LowRank(values, vectors, metric, neglected)

    @property
    def _has_few_data(self) -> bool:
        """Whether an adjoint run for each datum is the least work."""
        if self._ensembles or self.Jhat.tape._checkpoint_manager is not None:
            return False
        return sum(len(block.residuals) for block in self.data) <= min(FEW, len(self.controls) - 1)

    def _no_minimum(self) -> RuntimeError:
        return RuntimeError(
            f"{self._who}: the Hessian is not positive definite, so this is no minimum: fit first, "
            "as by fit(Jhat, 'newton-cg'), or leave out hessian='exact'."
        )

    def _check_sum(self, factors: dict | None) -> None:
        """Raise where the functional is not the sum of misfits and one energy for each control."""
        self.check_priors()
        if factors is None:
            raise ValueError(f"{self._who}: the functional is no sum of its terms: {WANTED}.")
        for block, factor in factors.items():
            if isinstance(block, (*MISFITS, LogErrors, *PRIORS)):
                self.check_factor(block, factor)
            elif factor:
                raise ValueError(
                    f"{self._who}: the functional has another term, a {block}: leave it out; "
                    f"{WANTED}. Penalties can be parts of the prior for at most {LARGEST} numbers, "
                    "without rank, an exact Hessian or a schedule."
                )

    def evaluate(self, vector: np.ndarray, value: Any = None) -> Any:
        """The functional, or another recorded value, at a point.  Collective."""
        Jhat = self.Jhat
        if value is not None:
            Jhat = ReducedFunctional(value, Jhat.controls, tape=Jhat.tape)
        with stop_annotating():
            return Jhat(self.controls.values(vector))

    def log_evidence(self, at: Expansion, data: Sequence[Summary]) -> float:
        """The logarithm of the marginal likelihood, by Laplace's approximation.

        Parameters
        ----------
        at
            The functional at the best values.
        data
            The misfits there.

        Raises
        ------
        ValueError
            If a misfit is not half a sum of squares.
        """
        self.check_normal(data)
        constant = sum(summary.constant for summary in data)
        return -at.value - constant + at.gaussian.log_shrinkage

    def check_normal(self, data: Sequence[Summary]) -> None:
        """Raise where a misfit is not half a sum of squares."""
        robust = [summary.robust for summary in data if summary.robust]
        if robust:
            raise ValueError(
                f"{self._who}: a misfit has the loss {robust[0]}, whose density is not normal, "
                "so that there is no evidence: leave out the loss, or compare models by data that "
                "are held out (data.split)."
            )

    @property
    def prior_mean(self) -> np.ndarray:
        """The means of all priors, shape ``(n,)``; zero where there is none."""
        mean = np.zeros(len(self.controls))
        for place, prior in self.priors:
            mean[place] = prior.mean
        return mean

    def check_priors(self) -> None:
        """Raise where a control has no prior."""
        with_prior = {place.start for place, _ in self.priors}
        for place, control in zip(self.places, self.objects, strict=True):
            if place.start not in with_prior:
                raise self._no_prior(control)

    def _found(self, priors: list[Any]) -> list[tuple[slice, Any]]:
        """The priors of the controls, in the controls' order."""
        found = []
        for place, control in zip(self.places, self.objects, strict=True):
            own = [prior for prior in priors if prior.control is control]
            if len(own) > 1:
                raise ValueError(
                    f"{self._who}: the functional has {len(own)} energies of priors of "
                    f"{name_of(control)}: one is the prior, leave out the others."
                )
            found += [(place, prior) for prior in own]
        return found

    def check_factor(self, block: Any, factor: float) -> None:
        """Raise where the functional has a multiple of a misfit or an energy."""
        if abs(factor - 1) > 1e-12:
            raise ValueError(
                f"{self._who}: the functional has {factor:g} times a {block}, so it is not minus "
                f"the logarithm of a density: leave out the factor; {WANTED}."
            )

    def _gaussian(self, prior: np.ndarray, data: np.ndarray, metric: Joined) -> Gaussian:
        try:
            return Gaussian(prior, data, metric)
        except np.linalg.LinAlgError:
            pass
        for place, control in zip(self.places, self.objects, strict=True):
            rank = np.linalg.matrix_rank(prior[place, place], hermitian=True)
            if rank < place.stop - place.start:
                raise self._no_prior(control)
        raise ValueError(
            f"{self._who}: the penalties together are no prior, as their matrix is not positive "
            "definite: add GaussianPrior(control).energy() for each control."
        )

    def _no_prior(self, control: Any) -> ValueError:
        kind = "FieldPrior" if isinstance(control, fd.Function) else "GaussianPrior"
        return ValueError(
            f"{self._who}: the control {name_of(control)} has no prior that bounds all its "
            f"entries: add {kind}(control).energy() to the functional."
        )
