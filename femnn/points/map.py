"""A network at points as a map from weights, Functions and Constants to values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations

from femnn.evaluation.evaluator import PointEvaluator
from femnn.evaluation.jacobian import weight_jacobian
from femnn.fields.copies import Mirrors, dependencies_of
from femnn.fields.cotangents import zero_cotangent
from femnn.fields.derivatives import (
    Direction,
    along,
    constant_gradient,
    derivative,
    entry_derivative,
    set_directions,
)
from femnn.fields.matrices import times_columns
from femnn.parallel import on_all_ranks, sum_over_ranks
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
        return on_all_ranks(self.at.mesh.comm, self.evaluator.value, inputs, weights)

    def vjp(
        self,
        inputs: np.ndarray,
        cotangent: np.ndarray,
        weights: np.ndarray,
        of_inputs: bool = True,
        of_weights: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Products with the network's Jacobians; see ``PointEvaluator.vjp``.  Collective.

        What the network raises on one rank is an error on all.
        """
        given = inputs, cotangent, weights, of_inputs, of_weights
        return on_all_ranks(self.at.mesh.comm, self.evaluator.vjp, *given)

    @cached_property
    def direction(self) -> NetworkDirection:
        """What a direction of dependencies and weights does at the points."""
        return NetworkDirection(self.points)

    @cached_property
    def _directions(self) -> dict[Any, Direction]:
        return {source: Direction.like(copy) for source, copy in self.mirrors.copies.items()}

    def set_direction(self, dots: Sequence[Any], weights_dot: np.ndarray | None) -> list[Direction]:
        """Take a change of each dependency (``None`` for none); those that move.  Collective."""
        given = dict(zip(self.dependencies, dots, strict=True))
        fields = set_directions(self._directions, given)
        self.direction.set(fields, weights_dot)
        return fields

    @no_annotations
    def change_columns(
        self,
        weights: np.ndarray,
        of_weights: np.ndarray | None,
        moving: Mapping[Any, np.ndarray],
        n: int,
    ) -> np.ndarray | None:
        """The values' changes along many directions, at the inputs that are loaded.  Collective.

        Parameters
        ----------
        weights
            Shape ``(n_weights,)``.
        of_weights
            Their changes, shape ``(n_weights, n)``; ``None`` for none.
        moving
            For each Function that changes the rank's rows of its changes, shape ``(n_owned, n)``.
        n
            Number of directions.

        Returns
        -------
        numpy.ndarray or None
            Shape ``(n_owned_values, n)``, rank-local; ``None`` where a Constant or a mesh changes,
            or the points are such that operands are not interpolated to them.
        """
        known = all(isinstance(self.mirrors.copies.get(d), fd.Function) for d in moving)
        if not (known and self.at.offers_matrices):
            return None
        comm, evaluator, x = self.at.mesh.comm, self.evaluator, self.points.inputs
        total = np.zeros((len(x) * evaluator.n_outputs, n))
        if of_weights is not None:
            jacobian = on_all_ranks(comm, weight_jacobian, evaluator, x, weights)
            total += jacobian.reshape(len(total), -1) @ of_weights
        if moving:
            _, slope = on_all_ranks(comm, evaluator.value_and_derivative, x, weights)
            self.at.fill(self._slope, slope)
        for dependency, columns in moving.items():
            matrix = self._made_once((dependency, "matrix"), partial(self._matrix, dependency))
            if matrix is not None:
                total += times_columns(matrix(), columns)
        return total

    @cached_property
    def _slope(self) -> fd.Function:
        """The network's derivatives at the points."""
        n, m = self.evaluator.n_inputs, self.evaluator.n_outputs
        return fd.Function(self.at.space((n,) if m == 1 else (m, n)))

    def _matrix(self, dependency: Any) -> Callable | None:
        """What assembles the derivative of the values for a Function."""
        copy = self.mirrors.copies[dependency]
        change = derivative(self.points.operands, copy, fd.TrialFunction(copy.function_space()))
        if _is_zero(change):
            return None
        values = fd.dot(self._slope, change)
        target = self.at.space(values.ufl_shape)
        interpolator = fd.get_interpolator(fd.interpolate(values, target))
        return interpolator._get_callable(bcs=())  # None is an error on mixed spaces

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
        moved = along(self.points.operands, fields)
        key = ("along", *(id(f) for f in fields))
        terms = [("of", self.points.operands, change), (key, moved, inputs_cotangent)]
        return self._carry(dependency, terms)

    @no_annotations
    def _carry(self, dependency: Any, terms: Sequence[tuple[Any, Any, np.ndarray]]) -> Any:
        """The sum of cotangents of expressions, each with a key of its own, for a dependency."""
        copy = self.mirrors.copies[dependency]
        if isinstance(copy, fd.Constant):
            local = constant_gradient(
                copy, lambda index: sum(self._product(copy, index, *term) for term in terms)
            )
            return sum_over_ranks(self.at.mesh.comm, local)
        total = zero_cotangent(copy.function_space())
        for key, expression, cotangent in terms:
            carry = self._transposed(copy, key, expression)
            if carry is not None:
                total += carry(cotangent)
        return total

    def _product(
        self,
        copy: fd.Constant,
        index: tuple[int, ...],
        key: Any,
        expression: Any,
        cotangent: np.ndarray,
    ) -> float:
        """The rank's product of a cotangent with the change by one entry of a Constant."""

        def make() -> Callable | None:
            change = entry_derivative(expression, copy, index)
            return None if _is_zero(change) else self.at.values_of(change)

        values = self._made_once((copy, index, key), make)
        return 0.0 if values is None else float(np.vdot(values(), cotangent))

    def _transposed(self, copy: fd.Function, key: Any, expression: Any) -> Callable | None:
        def make() -> Callable | None:
            change = derivative(expression, copy, fd.TestFunction(copy.function_space()))
            return None if _is_zero(change) else self.at.transposed(change)

        return self._made_once((copy, key), make)

    def _made_once(self, key: Any, make: Callable[[], Callable | None]) -> Callable | None:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _is_zero(expression: Any) -> bool:
    return isinstance(expression, ufl.constantvalue.Zero)
