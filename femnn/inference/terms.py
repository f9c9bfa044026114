"""A functional as minus the logarithm of a posterior density: data, priors and penalties."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import ReducedFunctional
from pyadjoint.enlisting import Enlist
from pyadjoint.tape import stop_annotating

from femnn.inference.gaussian import Gaussian
from femnn.inference.prior import GaussianPrior, PriorBlock
from femnn.parallel import from_rank_zero, vector_from_rank_zero
from femnn.tape.columns import gauss_newton_parts
from femnn.tape.losses import Squares
from femnn.tape.model import blocks_behind
from femnn.tape.numbers import size_of
from femnn.tape.shared import places_of
from femnn.tape.squares import SumOfSquares, squares_behind
from femnn.tape.weights import Weights
from femnn.training.controls import ControlVector
from femnn.training.loss import check_functional

WANTED = "wanted J = data.misfit(u) + prior.energy(), with Observations and a GaussianPrior"


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
        For each misfit its Gauss-Newton matrix, shape ``(n, n)``.
    gaussian
        Prior and data together.
    """

    vector: np.ndarray
    value: float
    gradient: np.ndarray
    data: dict[SumOfSquares, np.ndarray]
    gaussian: Gaussian


class Terms:
    """What a functional is the sum of.  Collective.

    Parameters
    ----------
    Jhat
        The reduced functional; controls are weights and Constants.
    who
        Who asks, for messages.

    Attributes
    ----------
    controls : ControlVector
        Its controls, joined.
    objects : list of Weights and Constants
        What the user holds of each.
    places : list of slice
        The place of each in the joined vector.
    data : list of SumOfSquares
        The misfits behind it.
    priors : list of (slice, GaussianPrior)
        The priors of controls, with the controls' places in the vector.
    """

    def __init__(self, Jhat: ReducedFunctional, who: str):
        check_functional(Jhat)
        self.Jhat, self._who = Jhat, who
        self.controls = ControlVector(Jhat)
        self.objects = [c.control for c in Enlist(Jhat.controls)]
        ends = np.cumsum([0, *(self._size(c) for c in self.objects)])
        self.places = [slice(a, b) for a, b in pairwise(ends.tolist())]
        self.data = squares_behind(Jhat.functional, Jhat.tape)
        if not self.data:
            raise ValueError(f"{who}: the functional has no misfit of Observations: {WANTED}.")
        blocks = blocks_behind(Jhat.functional, Jhat.tape)
        self.priors = self._found([b.prior for b in blocks if isinstance(b, PriorBlock)])

    @property
    def n_data(self) -> int:
        """The number of data."""
        return sum(len(residuals_of(block)) for block in self.data)

    def expand(self, vector: np.ndarray | None = None) -> Expansion:
        """The functional near a point, by default the controls' present values.  Collective.

        The functional has been evaluated there afterwards.

        Raises
        ------
        RuntimeError
            If the tape has no Gauss-Newton matrix.
        ValueError
            If a misfit or an energy has a factor, or a direction has no prior.
        """
        vector = self.controls.read() if vector is None else vector
        with stop_annotating():
            value = float(self.evaluate(vector))
            gradient = self.controls.flat(self.Jhat.derivative())
        parts = gauss_newton_parts(self.Jhat.functional, self.Jhat.controls, self.Jhat.tape)
        if parts is None:
            raise RuntimeError(
                f"{self._who}: the tape has no Gauss-Newton matrix: record the model without "
                f"enable_checkpointing, and the functional as a sum of its terms; {WANTED}."
            )
        prior, data = np.zeros((2, len(vector), len(vector)))
        misfits = {}
        for part in parts:
            matrix = vector_from_rank_zero(self.controls.comm, part.matrix)
            if isinstance(part.block, (SumOfSquares, PriorBlock)):
                self._check_factor(part.block, part.factor)
            if isinstance(part.block, SumOfSquares):
                misfits[part.block] = matrix
                data += matrix
            else:
                prior += matrix
        gradient = vector_from_rank_zero(self.controls.comm, gradient)
        value = from_rank_zero(self.controls.comm, value)
        return Expansion(vector, value, gradient, misfits, self._gaussian(prior, data))

    def evaluate(self, vector: np.ndarray, value: Any = None) -> Any:
        """The functional, or another recorded value, at a point.  Collective."""
        Jhat = self.Jhat if value is None else ReducedFunctional(value, self.Jhat.controls)
        with stop_annotating():
            return Jhat(self.controls.values(vector))

    def log_evidence(self, at: Expansion) -> float:
        """The logarithm of the marginal likelihood, by Laplace's approximation.

        Raises
        ------
        ValueError
            If a misfit is not half a sum of squares.
        """
        self.check_normal()
        constant = sum(block.density.constant for block in self.data)
        return -at.value - constant + at.gaussian.log_shrinkage

    def check_normal(self) -> None:
        """Raise where a misfit is not half a sum of squares."""
        robust = [b.loss for b in self.data if not isinstance(b.loss, Squares)]
        if robust:
            raise ValueError(
                f"{self._who}: a misfit has the loss {robust[0]!r}, whose density is not normal, "
                "so that there is no evidence: leave out the loss, or compare models by data that "
                "are held out (data.split)."
            )

    def parameter_places(self) -> dict[int, int]:
        """Where the entries of each parameter of a network begin, by the parameter's identity."""
        return {
            parameter: place.start + own.start
            for place, control in zip(self.places, self.objects, strict=True)
            if isinstance(control, Weights)
            for parameter, own in places_of(control).items()
        }

    def _size(self, control: Any) -> int:
        size = size_of(control) if isinstance(control, (Weights, fd.Constant)) else None
        if size is None:
            raise TypeError(
                f"{self._who}: a control is a {type(control).__name__}: wanted weights of "
                "networks, and Constants; make the ReducedFunctional of these."
            )
        return size

    def _found(self, priors: list[GaussianPrior]) -> list[tuple[slice, GaussianPrior]]:
        """The priors of the controls, in the controls' order."""
        found = []
        for place, control in zip(self.places, self.objects, strict=True):
            own = [prior for prior in priors if prior.control is control]
            if len(own) > 1:
                raise ValueError(
                    f"{self._who}: the functional has {len(own)} energies of priors of "
                    f"{control.name}: one is the prior, leave out the others."
                )
            found += [(place, prior) for prior in own]
        return found

    def _check_factor(self, block: SumOfSquares | PriorBlock, factor: float) -> None:
        if abs(factor - 1) > 1e-12:
            raise ValueError(
                f"{self._who}: the functional has {factor:g} times a {block}, so it is not minus "
                f"the logarithm of a density: leave out the factor; {WANTED}."
            )

    def _gaussian(self, prior: np.ndarray, data: np.ndarray) -> Gaussian:
        try:
            return Gaussian(prior, data)
        except np.linalg.LinAlgError:
            pass
        for place, control in zip(self.places, self.objects, strict=True):
            if (
                np.linalg.matrix_rank(prior[place, place], hermitian=True)
                < place.stop - place.start
            ):
                raise ValueError(
                    f"{self._who}: the control {control.name} has no prior that bounds all its "
                    "entries: add GaussianPrior(control).energy() to the functional."
                )
        raise ValueError(
            f"{self._who}: the penalties together are no prior, as their matrix is not positive "
            "definite: add GaussianPrior(control).energy() for each control."
        )


def residuals_of(block: SumOfSquares) -> np.ndarray:
    """The weighted residuals where the tape was evaluated last, shape ``(n_residuals,)``."""
    return block.node.saved_output.vector
