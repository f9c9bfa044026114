"""A network at the points that a rank owns, and what a direction does to it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ufl
from pyadjoint.tape import no_annotations

from femnn.evaluation.derivatives import Variation
from femnn.evaluation.evaluator import PointEvaluator
from femnn.fields.derivatives import Direction, along
from femnn.parallel import on_all_ranks
from femnn.points.pointset import PointSet


class NetworkAtPoints:
    """One network at the points that this rank owns.

    Parameters
    ----------
    evaluator
        The network.
    operands
        UFL vector of the network's inputs.
    points
        Where.

    Attributes
    ----------
    inputs : numpy.ndarray
        The operands of the last :meth:`interpolate`.
    """

    def __init__(self, evaluator: PointEvaluator, operands: Any, points: PointSet):
        self.evaluator = evaluator
        self.operands = operands
        self.at = points
        self._evaluate = points.values_of(operands)
        self.inputs = np.empty((0, evaluator.n_inputs))

    def interpolate(self) -> np.ndarray:
        """Evaluate the operands: shape ``(n_owned_points, n_inputs)``.  Collective."""
        self.inputs = self._evaluate()
        return self.inputs


class NetworkDirection:
    """What a direction does to a network's operands, values and derivatives at its points.

    Parameters
    ----------
    points
        The network at the points.
    value, slope
        Functions of its values and derivatives that stand in forms, if any do.

    Attributes
    ----------
    directions : list of Direction
        Of values and derivatives, for forms that hold them.
    """

    @no_annotations
    def __init__(self, points: NetworkAtPoints, value: Any = None, slope: Any = None):
        self.points = points
        self.directions = [Direction.like(f) for f in (value, slope) if f is not None]
        self._kept: dict[tuple[int, ...], Callable[[], np.ndarray] | None] = {}
        self.inputs_dot: np.ndarray | None = None
        self.weights_dot: np.ndarray | None = None

    @property
    def moves(self) -> bool:
        """Whether the direction that is set changes anything here."""
        return self.inputs_dot is not None or self.weights_dot is not None

    @no_annotations
    def set(self, directions: Sequence[Direction], weights_dot: np.ndarray | None) -> None:
        """Take a direction of what the operands hold, and of the weights.  Collective."""
        self.inputs_dot = self._along(directions)
        self.weights_dot = weights_dot

    def fill(
        self, weights: np.ndarray, of_slope: bool, cotangent: np.ndarray | None = None
    ) -> np.ndarray:
        """Write the changes of values (and derivatives) into :attr:`directions`.  Collective.

        Returns the change of the weights' gradient for a cotangent, zero where none is given.
        """
        change = self.variation(weights, of_slope, cotangent)
        self.points.at.fill(self.directions[0].change, change.values)
        if change.slope is not None:
            self.points.at.fill(self.directions[1].change, change.slope)
        return change.weights

    def variation(
        self, weights: np.ndarray, of_slope: bool, cotangent: np.ndarray | None = None
    ) -> Variation:
        """The changes at this rank's points; see ``PointEvaluator.variation``.  Collective.

        What the network raises on one rank is an error on all.
        """
        x, dots = self.points.inputs, (self.inputs_dot, self.weights_dot)
        variation = self.points.evaluator.variation
        comm = self.points.at.mesh.comm
        return on_all_ranks(comm, variation, x, *dots, weights, of_slope, cotangent)

    def _along(self, directions: Sequence[Direction]) -> np.ndarray | None:
        """The operands' change, ``None`` where they do not change."""
        key = tuple(id(d) for d in directions)
        if key not in self._kept:
            change = along(self.points.operands, directions)
            zero = isinstance(change, ufl.constantvalue.Zero)
            self._kept[key] = None if zero else self.points.at.values_of(change)
        evaluate = self._kept[key]
        return None if evaluate is None else evaluate().copy()
