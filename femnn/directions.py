"""Directions of Functions and Constants, and derivatives of forms and expressions along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations
from ufl.algorithms import expand_derivatives

from femnn.evaluation import Variation
from femnn.quadrature import (
    NetworkAtPoints,
    entry_derivative,
    expression_derivative,
)


@dataclass(frozen=True)
class Direction:
    """A Function or Constant in a form, and its change.

    Attributes
    ----------
    of, change
        Both Functions on one space, or both Constants of one shape.
    """

    of: Any
    change: Any

    @classmethod
    @no_annotations
    def like(cls, of: Any) -> Direction:
        """A zero direction."""
        if isinstance(of, fd.Constant):
            return cls(of, fd.Constant(np.zeros(of.ufl_shape)))
        return cls(of, fd.Function(of.function_space()))

    @no_annotations
    def assign(self, value: Any) -> None:
        """Set the change."""
        if isinstance(self.of, fd.Constant):
            values = value.dat.data_ro if isinstance(value, fd.Constant) else np.asarray(value)
            self.change.assign(values.reshape(self.of.ufl_shape))
        else:
            self.change.assign(value)


def directional_derivative(form: ufl.Form, directions: Sequence[Direction]) -> ufl.Form:
    """The derivative of a form along directions."""
    form = expand_derivatives(form)
    total = ufl.Form([])
    if not isinstance(form, ufl.Form) or form.empty():
        return total
    for direction in directions:
        if isinstance(direction.of, fd.Constant):
            for index in np.ndindex(direction.of.ufl_shape):
                entry = direction.change[index] if index else direction.change
                total = total + _scaled(entry_derivative(form, direction.of, index), entry)
        else:
            total = total + fd.derivative(form, direction.of, direction.change)
    return total


def expression_along(expression: Any, directions: Sequence[Direction]) -> Any:
    """The derivative of an expression along directions."""
    total = ufl.constantvalue.Zero(expression.ufl_shape)
    for direction in directions:
        if isinstance(direction.of, fd.Constant):
            for index in np.ndindex(direction.of.ufl_shape):
                entry = direction.change[index] if index else direction.change
                total = total + entry * entry_derivative(expression, direction.of, index)
        else:
            total = total + expression_derivative(expression, direction.of, direction.change)
    return total


def _scaled(form: ufl.Form, factor: Any) -> ufl.Form:
    integrals = [i.reconstruct(integrand=factor * i.integrand()) for i in form.integrals()]
    return ufl.Form(integrals)


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
        """Write the changes of values (and derivatives) into :attr:`directions`.

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
        """The changes at this rank's points; see ``PointEvaluator.variation``."""
        return self.points.evaluator.variation(
            self.points.inputs, self.inputs_dot, self.weights_dot, weights, of_slope, cotangent
        )

    def _along(self, directions: Sequence[Direction]) -> np.ndarray | None:
        """The operands' change, ``None`` where they do not change."""
        key = tuple(id(d) for d in directions)
        if key not in self._kept:
            change = expression_along(self.points.operands, directions)
            zero = isinstance(change, ufl.constantvalue.Zero)
            self._kept[key] = None if zero else self.points.at.values_of(change)
        evaluate = self._kept[key]
        return None if evaluate is None else evaluate().copy()
