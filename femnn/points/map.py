"""A network at points as a map from weights, Functions and Constants to values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations

from femnn.evaluation.evaluator import PointEvaluator
from femnn.fields.copies import Mirrors, dependencies_of
from femnn.fields.cotangents import zero_cotangent
from femnn.fields.derivatives import entry_derivative, expression_derivative
from femnn.fields.directions import Direction, expression_along
from femnn.parallel import raise_network_error, sum_over_ranks
from femnn.points.network import NetworkAtPoints, NetworkDirection
from femnn.points.pointset import PointSet


class PointMap:
    """A network at points, and what carries cotangents of its inputs to what these hold.

    Its operands are written in private copies, so that evaluating it for the tape changes
    nothing of the user's.  Interpolations and their transposes are made once and kept.

    Parameters
    ----------
    evaluator
        The network.
    inputs
        UFL vector of the network's inputs.
    at
        The points.

    Attributes
    ----------
    dependencies : list
        The Functions and Constants in the inputs.
    """

    def __init__(self, evaluator: PointEvaluator, inputs: Any, at: PointSet):
        self.evaluator = evaluator
        self.at = at
        self.dependencies = dependencies_of(inputs)
        self.mirrors = Mirrors(self.dependencies)
        self.points = NetworkAtPoints(evaluator, self.mirrors(inputs), at)
        self._kept: dict[Any, Any] = {}

    @no_annotations
    def load(self, values: Sequence[Any] | None = None) -> np.ndarray:
        """The network's inputs for values of the dependencies; the present ones without.

        Shape ``(n_owned_points, n_inputs)``; rank-local.  Collective.
        """
        given = None if values is None else dict(zip(self.dependencies, values, strict=True))
        self.mirrors.load(given)
        return self.points.interpolate()

    def values(self, inputs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """The network's values; what it raises on one rank is an error on all.  Collective."""
        values, failure = None, None
        try:
            values = self.evaluator.value(inputs, weights)
        except Exception as error:
            failure = error
        raise_network_error(self.at.mesh.comm, failure)
        assert values is not None
        return values

    @cached_property
    def direction(self) -> NetworkDirection:
        """What a direction of dependencies and weights does at the points."""
        return NetworkDirection(self.points)

    @cached_property
    def _directions(self) -> dict[Any, Direction]:
        return {source: Direction.like(copy) for source, copy in self.mirrors.copies.items()}

    def set_direction(self, dots: Sequence[Any], weights_dot: np.ndarray | None) -> list[Direction]:
        """Take a change of each dependency (``None`` for none); those that move.  Collective."""
        fields = []
        for dependency, dot in zip(self.dependencies, dots, strict=True):
            if dot is not None:
                direction = self._directions[dependency]
                direction.assign(dot)
                fields.append(direction)
        self.direction.set(fields, weights_dot)
        return fields

    def cotangent(self, dependency: Any, inputs_cotangent: np.ndarray) -> Any:
        """A cotangent of the inputs, one row for each point, carried to a dependency.

        Returns a Cofunction, or an array for a Constant.  Collective.
        """
        return self._carry(dependency, [("of", self.points.operands, inputs_cotangent)])

    def cotangent_change(
        self,
        dependency: Any,
        inputs_cotangent: np.ndarray,
        change: np.ndarray,
        fields: Sequence[Direction],
    ) -> Any:
        """The change of :meth:`cotangent` where the cotangent changes and fields move."""
        moved = expression_along(self.points.operands, fields)
        along = ("along", *(id(f) for f in fields))
        terms = [("of", self.points.operands, change), (along, moved, inputs_cotangent)]
        return self._carry(dependency, terms)

    @no_annotations
    def _carry(self, dependency: Any, terms: list[tuple[Any, Any, np.ndarray]]) -> Any:
        copy = self.mirrors.copies[dependency]
        if isinstance(copy, fd.Constant):
            local = np.zeros(copy.ufl_shape)
            for index in np.ndindex(copy.ufl_shape):
                for key, expression, cotangent in terms:
                    values = self._entry_values(key, expression, copy, index)
                    local[index] += 0.0 if values is None else np.vdot(values(), cotangent)
            return sum_over_ranks(self.at.mesh.comm, local)
        total = zero_cotangent(copy.function_space())
        for key, expression, cotangent in terms:
            transposed = self._transposed(key, expression, copy)
            if transposed is not None:
                total += transposed(cotangent)
        return total

    def _transposed(self, key: Any, expression: Any, copy: fd.Function) -> Callable | None:
        if (key, copy) not in self._kept:
            change = expression_derivative(expression, copy, fd.TestFunction(copy.function_space()))
            zero = isinstance(change, ufl.constantvalue.Zero)
            self._kept[key, copy] = None if zero else self.at.transposed(change)
        return self._kept[key, copy]

    def _entry_values(
        self, key: Any, expression: Any, copy: fd.Constant, index: tuple[int, ...]
    ) -> Callable | None:
        if (key, copy, index) not in self._kept:
            change = entry_derivative(expression, copy, index)
            zero = isinstance(change, ufl.constantvalue.Zero)
            self._kept[key, copy, index] = None if zero else self.at.values_of(change)
        return self._kept[key, copy, index]
