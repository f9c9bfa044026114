"""Points of a mesh (of a quadrature rule, or nodes), and the operands of a network there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from finat.ufl import TensorElement, VectorElement
from firedrake.assemble import get_assembler
from pyadjoint.tape import no_annotations
from ufl.algorithms import extract_arguments
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives
from ufl.algorithms.apply_restrictions import apply_restrictions

from femnn.fields.copies import CoordinateState
from femnn.parallel import all_ranks
from femnn.points.nodes import nodal_rows, nodal_transpose
from femnn.points.rules import cell_rule, facet_element


@dataclass(frozen=True)
class PointSet:
    """The points at which a network is evaluated: those of a quadrature rule, or nodes.

    Attributes
    ----------
    mesh
        The mesh.
    element
        The scalar element whose degrees of freedom are values at the points.
    integral_type
        ``"cell"``, ``"node"``, or one of facets, as in UFL.
    degree
        The quadrature rule's degree; ``None`` for nodes.
    chosen
        Indices of the points among those that this rank owns; ``None`` for all.
    weights
        Gives the rule's weights at the chosen points, with the facets' present size; ``None`` but
        for facets.
    """

    mesh: Any
    element: Any
    integral_type: str
    degree: int | None = None
    chosen: np.ndarray | None = None
    weights: Callable[[], np.ndarray] | None = None

    @classmethod
    @no_annotations
    def of_rule(cls, mesh: Any, degree: int, integral_type: str = "cell") -> PointSet:
        """The points of the default rule of a degree, in cells or on facets."""
        if integral_type == "cell":
            return cls(mesh, cell_rule(mesh.ufl_cell(), degree), integral_type, degree)
        at = cls(mesh, facet_element(mesh, degree, integral_type), integral_type, degree)
        weights = _FacetWeights(mesh, at._restricted(fd.TestFunction(at.space())) * at._measure)
        return replace(at, chosen=weights.chosen, weights=weights)

    @classmethod
    def of_nodes(cls, space: Any) -> PointSet:
        """The nodes of a space whose degrees of freedom are point values."""
        if len(space) > 1 or not space.finat_element.has_pointwise_dual_basis:
            raise ValueError(
                f"the degrees of freedom of {space.ufl_element()} are not values at points: a "
                "network is evaluated at nodes of Lagrange, Quadrature and the like. Use such a "
                "space, and one for each part of a mixed space."
            )
        element = space.ufl_element()
        while element.num_sub_elements and element.family() != "TensorProductElement":
            element = element.sub_elements[0]
        return cls(space.mesh(), element, "node")

    @property
    def between_cells(self) -> bool:
        """Whether the points are on interior facets, where operands are of one side or both."""
        return self.integral_type.startswith("interior_facet")

    def on_sides(self, inputs: Any) -> Any:
        """The inputs with the side of an interior facet from which each of their terms comes.

        Raises
        ------
        ValueError
            If a term differs between the two cells and does not say its side.
        """
        if not self.between_cells:
            return inputs
        lowered = apply_derivatives(apply_algebra_lowering(inputs))
        try:
            return apply_restrictions(lowered, {self.mesh: "+"})
        except ValueError as error:
            raise ValueError(
                f"operands on interior facets: {error} Write u('+'), u('-'), avg(u) or jump(u) "
                "where an operand differs between the two cells."
            ) from error

    def space(self, shape: tuple[int, ...] = ()) -> Any:
        """Function space of values of ``shape`` at the points."""
        element = self.element
        if len(shape) == 1:
            element = VectorElement(element, dim=shape[0])
        elif shape:
            element = TensorElement(element, shape=shape)
        return fd.FunctionSpace(self.mesh, element)

    def rows(self, function: Any) -> np.ndarray:
        """The owned points' values of a Function or Cofunction, shape ``(n_points, n)``."""
        data = function.dat.data_ro
        flat = data.reshape(len(data), int(np.prod(data.shape[1:], dtype=int)))
        return flat if self.chosen is None else flat[self.chosen]

    def fill(self, function: Any, values: np.ndarray) -> None:
        """Write one row of ``values`` for each owned point into a Function or Cofunction."""
        data = function.dat.data_wo
        if self.chosen is None:
            data[...] = values.reshape(data.shape)
        else:
            data[...] = 0.0
            data[self.chosen] = values.reshape(-1, *data.shape[1:])

    @no_annotations
    def values_of(self, expression: Any) -> Callable[[], np.ndarray]:
        """What evaluates a vector expression at the points: rows, one for each owned point.

        At nodes from Functions that hold the values there, else by interpolation; on facets, which
        tensor-product cells cannot interpolate to and where an expression may be of both sides, by
        an integral against each point's test function, divided by the point's weight.  The rows are
        overwritten at the next evaluation.  Collective, and so is each evaluation.
        """
        if self.integral_type == "node" and (read := nodal_rows(expression, self)) is not None:
            return read
        space = self.space(expression.ufl_shape)
        if self.weights is None:
            target = fd.Function(space)
            interpolate = fd.get_interpolator(fd.interpolate(expression, space))
            evaluate = interpolate._get_callable(tensor=target)
        else:
            target = fd.Cofunction(space.dual())
            test = self._restricted(fd.TestFunction(space))
            assembler = get_assembler(ufl.inner(expression, test) * self._measure)
            evaluate = partial(assembler.assemble, tensor=target)

        def rows() -> np.ndarray:
            evaluate()
            found = self.rows(target)
            return found if self.weights is None else found / self.weights()[:, None]

        return rows

    @no_annotations
    def transposed(self, change: Any) -> Callable[[np.ndarray], fd.Cofunction]:
        """What carries a cotangent at the points to a test function.

        Parameters
        ----------
        change
            A vector expression, linear in a test function.

        Returns
        -------
        callable
            Takes one row for each owned point.  Its result is overwritten at the next call.
            Collective.
        """
        if self.integral_type == "node" and (carry := nodal_transpose(change, self)) is not None:
            return carry
        space = self.space(change.ufl_shape)
        (test,) = extract_arguments(change)
        result = fd.Cofunction(test.function_space().dual())
        if self.weights is None:
            at_points: Any = fd.Cofunction(space.dual())
            interpolator = fd.get_interpolator(fd.interpolate(change, at_points))
            evaluate = interpolator._get_callable(tensor=result)
        else:
            at_points = fd.Function(space)
            form = ufl.inner(self._restricted(at_points), change) * self._measure
            evaluate = partial(get_assembler(form).assemble, tensor=result)

        def carried(cotangent: np.ndarray) -> fd.Cofunction:
            weights = self.weights
            self.fill(at_points, cotangent if weights is None else cotangent / weights()[:, None])
            result.zero()
            evaluate()
            return result

        return carried

    @property
    def _measure(self) -> ufl.Measure:
        return ufl.Measure(
            self.integral_type, self.mesh, metadata={"quadrature_degree": self.degree}
        )

    def _restricted(self, value: Any) -> Any:
        """A field at the points in an integral; it is the same on both sides of a facet."""
        return value("+") if self.between_cells else value


class _FacetWeights:
    """Integrals of points' test functions, found again where the mesh has moved."""

    def __init__(self, mesh: Any, form: ufl.Form):
        self._mesh, self._form = mesh, form
        self._moved = CoordinateState(mesh)
        self._state: int | None = None
        self.chosen = np.flatnonzero(self._assembled())
        self._weights = np.empty(0)

    def __call__(self) -> np.ndarray:
        """The weights of the chosen points.  Collective."""
        state = self._moved()
        if not all_ranks(self._mesh.comm, self._state == state):
            self._weights, self._state = self._assembled()[self.chosen], state
        return self._weights

    @no_annotations
    def _assembled(self) -> np.ndarray:
        return fd.assemble(self._form).dat.data_ro
