"""Sums of squares of residuals on the tape, where Gauss-Newton methods find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pyadjoint import AdjFloat, Block, Tape
from pyadjoint.tape import annotate_tape

from femnn.tape.losses import Loss, Squares
from femnn.tape.model import blocks_behind
from femnn.tape.nodes import add_dependencies
from femnn.tape.vector import Vector, recorded


@dataclass(frozen=True)
class Density:
    """What minus the log likelihood of data has beside the sum of squares.

    Attributes
    ----------
    scale
        A Constant or a Function on the Real space, by which all errors are multiplied, where
        there is one; the functional has the logarithm of it then.
    constant
        What the functional lacks.
    """

    scale: Any = None
    constant: float = 0.0


def sum_of_squares(
    residuals: Vector, loss: Loss | None = None, density: Density | None = None
) -> AdjFloat:
    """Half the sum of squared residuals, or the sum of their losses; recorded on the tape.

    Parameters
    ----------
    residuals
        Weighted residuals.
    loss
        What a residual costs; half its square by default.
    density
        What the likelihood has beside; by default what it has of errors of size one.
    """
    loss = Squares() if loss is None else loss
    if annotate_tape():
        return recorded(SumOfSquares(residuals, loss, density))
    return AdjFloat(loss.value(residuals.vector).sum())


def squares_behind(functional: Any, tape: Tape) -> list[SumOfSquares]:
    """The sums of squares that a functional is computed from, the last first."""
    return [b for b in blocks_behind(functional, tape) if isinstance(b, SumOfSquares)]


class SumOfSquares(Block):
    """Half the sum of squared residuals, or the sum of their losses.

    A Gauss-Newton method takes the residuals and their tangent-linear values from :attr:`node`,
    and seeds its adjoint with :meth:`curvature` times these, times the output's adjoint value:
    :meth:`evaluate_gauss_newton` does so.

    Parameters
    ----------
    residuals
        Weighted residuals.
    loss
        What a residual costs.
    density
        As for :func:`sum_of_squares`.

    Attributes
    ----------
    density : Density
        What the likelihood has beside.
    """

    def __init__(self, residuals: Vector, loss: Loss, density: Density | None = None):
        super().__init__()
        self.loss = loss
        self.density = density or Density(constant=0.5 * len(residuals) * np.log(2 * np.pi))
        self._second = loss.bend
        add_dependencies(self, [residuals])

    def __str__(self) -> str:
        return "sum of squares"

    @property
    def node(self) -> Any:
        """The tape's node of the residuals."""
        return self.get_dependencies()[0]

    def curvature(self) -> np.ndarray:
        """The residuals' weights in Gauss-Newton's matrix, at their present values.

        Returns
        -------
        numpy.ndarray
            Not negative, shape ``(n_residuals,)``, the same on every rank; one for squares.
        """
        return self.loss.weight(self.node.saved_output.vector)

    def evaluate_gauss_newton(self, markings: bool = False) -> None:
        """As ``evaluate_hessian``, with :meth:`curvature` for the loss's second derivative."""
        self._second = self.loss.weight
        try:
            self.evaluate_hessian(markings=markings)
        finally:
            self._second = self.loss.bend

    def hessian_columns(self, moving: dict[Any, np.ndarray], factor: float) -> dict:
        """:meth:`curvature` times changes in many directions; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The residuals' node with its changes, shape ``(n_residuals, n)``.
        factor
            The functional's derivative for this sum.
        """
        weights = factor * self.curvature()
        return {bv: weights[:, None] * matrix for bv, matrix in moving.items()}

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> AdjFloat:
        return AdjFloat(self.loss.value(inputs[0].vector).sum())

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Vector:
        return inputs[0].like(float(adj_inputs[0]) * self.loss.slope(inputs[0].vector))

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> AdjFloat:
        return AdjFloat(self.loss.slope(inputs[0].vector) @ tlm_inputs[0].vector)

    def evaluate_hessian_component(
        self,
        inputs: list,
        hessian_inputs: list,
        adj_inputs: list,
        block_variable: Any,
        idx: int,
        relevant_dependencies: list,
        prepared: Any = None,
    ) -> Vector:
        r = inputs[0].vector
        change = float(hessian_inputs[0]) * self.loss.slope(r)
        direction = block_variable.tlm_value
        if direction is not None and adj_inputs[0] is not None:
            change = change + float(adj_inputs[0]) * self._second(r) * direction.vector
        return inputs[0].like(change)
