"""Points of a mesh (of a quadrature rule, or nodes), and the operands of a network there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from finat.ufl import FiniteElement, TensorElement, TensorProductElement, VectorElement
from firedrake.assemble import get_assembler
from gem.gem import IndexBase
from pyadjoint.tape import no_annotations
from ufl.algorithms import extract_arguments, extract_coefficients
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives
from ufl.algorithms.apply_restrictions import apply_restrictions
from ufl.algorithms.map_integrands import map_integrand_dags
from ufl.corealg.multifunction import MultiFunction

from femnn.evaluation import PointEvaluator
from femnn.mirrors import CoordinateState
from femnn.nodal import nodal_rows, nodal_transpose
from femnn.parallel import all_ranks

FACETS = {
    "exterior_facet": "ds",
    "interior_facet": "dS",
    "exterior_facet_vert": "ds_v",
    "exterior_facet_bottom": "ds_b",
    "exterior_facet_top": "ds_t",
    "interior_facet_vert": "dS_v",
    "interior_facet_horiz": "dS_h",
}


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
            return cls(mesh, _cell_rule(mesh.ufl_cell(), degree), integral_type, degree)
        at = cls(mesh, _facet_element(mesh, degree, integral_type), integral_type, degree)
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


def _facet_element(mesh: Any, degree: int, integral_type: str) -> Any:
    """The element with values at a rule's points on facets."""
    possible = [t for t in FACETS if (t.split("_")[-1] != "facet") == mesh.extruded]
    if integral_type not in possible:
        raise ValueError(
            f"a coefficient with the measure {FACETS.get(integral_type, integral_type)} on "
            f"{mesh.ufl_cell()} cells: on this mesh the measure can be dx, "
            f"{', '.join(FACETS[t] for t in possible)}."
        )
    if not mesh.extruded:
        return _facet_rule(mesh.ufl_cell(), degree)
    base, line = mesh.ufl_cell().sub_cells
    if integral_type.endswith("vert"):
        # finat names a product's facet by numpy's integers, which gem does not take as indices.
        IndexBase.register(np.integer)
        factors = (_facet_rule(base, degree), _cell_rule(line, degree))
    else:
        factors = (_cell_rule(base, degree), _facet_rule(line, degree))
    return TensorProductElement(*factors)


def _facet_rule(cell: Any, degree: int) -> Any:
    """Values at the points of a cell's facets; those of an interval are its ends."""
    if cell.topological_dimension == 1:
        return FiniteElement("CG", cell, 1)
    return FiniteElement("BQ", cell, degree)


def _cell_rule(cell: Any, degree: int) -> Any:
    return FiniteElement("Quadrature", cell, degree, quad_scheme="default")


def asked_degree(measure: ufl.Measure | ufl.Integral) -> int | None:
    """The quadrature degree that a measure or an integral asks for."""
    metadata = measure.metadata()
    return metadata.get("quadrature_degree", metadata.get("degree"))


def default_degree(mesh: Any, operands: Sequence[Any]) -> int:
    """Degree of quadrature where the user gives none: 2 p + 2.

    p is the highest polynomial degree among the Functions in the operands and the mesh.
    A law of the unknown counts as degree p + 2 (UFL's rule for nonlinear functions), a test
    function as p.
    """
    functions = [mesh.coordinates]
    functions += [c for op in operands for c in extract_coefficients(op)]
    spaces = [space for f in functions for space in f.function_space().subspaces]
    degrees = [space.ufl_element().embedded_subdegree for space in spaces]
    return 2 * max(1, *degrees) + 2


def flatten(operands: Sequence[Any]) -> Any:
    """All components of the operands as one UFL vector."""
    components = []
    for op in operands:
        if op.ufl_shape == ():
            components.append(op)
        else:
            components += [op[index] for index in np.ndindex(op.ufl_shape)]
    return ufl.as_vector(components)


def expression_derivative(expression: Any, u: Any, direction: Any) -> Any:
    """The Gateaux derivative of an expression, with all derivatives carried out."""
    derivative = ufl.derivative(expression, u, direction)
    return apply_derivatives(apply_algebra_lowering(derivative))


def entry_derivative(expression: Any, constant: fd.Constant, index: tuple[int, ...]) -> Any:
    """The derivative of an expression or form with respect to one entry of a Constant."""
    entry = ufl.variable(constant[index] if index else constant)
    entries = np.empty(constant.ufl_shape, dtype=object)
    for i in np.ndindex(constant.ufl_shape):
        entries[i] = entry if i == index else constant[i]
    substitute = ufl.as_tensor(entries.tolist()) if index else entry
    derivative = ufl.diff(ufl.replace(expression, {constant: substitute}), entry)
    return map_integrand_dags(
        _WithoutVariables(), apply_derivatives(apply_algebra_lowering(derivative))
    )


class _WithoutVariables(MultiFunction):
    """As ``ufl.algorithms.strip_variables``, which fails where Irksome came before Firedrake."""

    expr = MultiFunction.reuse_if_untouched

    def variable(self, o: Any, expression: Any, label: Any) -> Any:
        return expression


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
