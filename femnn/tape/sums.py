"""Numbers that are sums of a function of each entry of one value."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import AdjFloat, Block

from femnn.tape.nodes import add_dependencies
from femnn.tape.numbers import numbers_of


class EntrywiseSum(Block):
    """A sum over the entries of a vector, of weights or of a Constant.

    Subclasses say what is summed, its slope and how it bends, entry by entry.  A loss that is not
    convex has a weight of its own for Gauss-Newton's matrix, which is not negative.

    Parameters
    ----------
    value
        What has the entries, the same on every rank.
    """

    def __init__(self, value: Any):
        super().__init__()
        self._second = self.bend
        add_dependencies(self, [value])

    def total(self, x: np.ndarray) -> float:
        """The sum at these entries, shape ``(n,)``."""
        raise NotImplementedError

    def slope(self, x: np.ndarray) -> np.ndarray:
        """The first derivative for each entry, shape ``(n,)``."""
        raise NotImplementedError

    def bend(self, x: np.ndarray) -> np.ndarray:
        """The second derivative for each entry, shape ``(n,)``."""
        raise NotImplementedError

    def weight(self, x: np.ndarray) -> np.ndarray:
        """What stands for the second derivative in Gauss-Newton's matrix, shape ``(n,)``."""
        return self.bend(x)

    @property
    def node(self) -> Any:
        """The tape's node of what has the entries."""
        return self.get_dependencies()[0]

    def curvature(self) -> np.ndarray:
        """The entries' weights in Gauss-Newton's matrix, at their present values.

        Returns
        -------
        numpy.ndarray
            Shape ``(n,)``, the same on every rank.
        """
        return self.weight(numbers_of(self.node.saved_output))

    def evaluate_gauss_newton(self, markings: bool = False) -> None:
        """As ``evaluate_hessian``, with :meth:`curvature` for the second derivative."""
        self._second = self.weight
        try:
            self.evaluate_hessian(markings=markings)
        finally:
            self._second = self.bend

    def hessian_columns(self, moving: dict[Any, np.ndarray], factor: float) -> dict:
        """:meth:`curvature` times changes in many directions; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The node with its changes, shape ``(n, n_directions)``.
        factor
            The functional's derivative for this sum.
        """
        weights = factor * self.curvature()
        return {bv: weights[:, None] * matrix for bv, matrix in moving.items()}

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> AdjFloat:
        return AdjFloat(self.total(numbers_of(inputs[0])))

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return cotangent(inputs[0], float(adj_inputs[0]) * self.slope(numbers_of(inputs[0])))

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> AdjFloat:
        return AdjFloat(self.slope(numbers_of(inputs[0])) @ numbers_of(tlm_inputs[0]))

    def evaluate_hessian_component(
        self,
        inputs: list,
        hessian_inputs: list,
        adj_inputs: list,
        block_variable: Any,
        idx: int,
        relevant_dependencies: list,
        prepared: Any = None,
    ) -> Any:
        x, direction = numbers_of(inputs[0]), block_variable.tlm_value
        change = float(hessian_inputs[0]) * self.slope(x)
        if direction is not None and adj_inputs[0] is not None:
            change = change + float(adj_inputs[0]) * self._second(x) * numbers_of(direction)
        return cotangent(inputs[0], change)


def cotangent(value: Any, gradient: np.ndarray) -> Any:
    """An adjoint value of weights, a vector or a Constant, as the tape adds them up.

    Parameters
    ----------
    value
        What it belongs to.
    gradient
        The derivative for each entry, shape ``(n,)``.
    """
    if isinstance(value, fd.Constant):
        return gradient.reshape(value.ufl_shape)
    return value.like(gradient)
