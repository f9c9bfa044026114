"""Points of a mesh (of a quadrature rule, or nodes), and the operands of a network there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from finat.ufl import FiniteElement, TensorElement, VectorElement
from pyadjoint.tape import no_annotations
from ufl.algorithms import extract_coefficients, strip_variables
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives

from femnn.evaluation import PointEvaluator


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
        ``"cell"``, ``"exterior_facet"``, ``"interior_facet"``, or ``"node"``.
    degree
        The quadrature rule's degree; ``None`` for nodes.
    chosen
        Indices of the points among those that this rank owns; ``None`` for all.
    """

    mesh: Any
    element: Any
    integral_type: str
    degree: int | None = None
    chosen: np.ndarray | None = None

    @classmethod
    @no_annotations
    def of_rule(cls, mesh: Any, degree: int, integral_type: str = "cell") -> PointSet:
        """The points of the default rule of a degree, in cells or on facets."""
        if integral_type == "cell":
            element = FiniteElement("Quadrature", mesh.ufl_cell(), degree, quad_scheme="default")
            return cls(mesh, element, integral_type, degree)
        if mesh.extruded or not mesh.ufl_cell().is_simplex:
            raise NotImplementedError(
                f"a coefficient on facets of {mesh.ufl_cell()} cells: Firedrake has Boundary "
                "Quadrature elements on simplices and intervals only."
            )
        element = FiniteElement("BQ", mesh.ufl_cell(), degree)
        test = fd.TestFunction(fd.FunctionSpace(mesh, element))
        if integral_type == "exterior_facet":
            weights = fd.assemble(test * fd.ds(degree=degree))
        else:
            weights = fd.assemble((test("+") + test("-")) * fd.dS(degree=degree))
        chosen = np.flatnonzero(weights.dat.data_ro)
        return cls(mesh, element, integral_type, degree, chosen)

    @classmethod
    def of_nodes(cls, space: Any) -> PointSet:
        """The nodes of a space whose degrees of freedom are point values."""
        element = space.ufl_element()
        while element.num_sub_elements and element.family() != "TensorProductElement":
            element = element.sub_elements[0]
        return cls(space.mesh(), element, "node")

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
    return strip_variables(apply_derivatives(apply_algebra_lowering(derivative)))


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
    """

    @no_annotations
    def __init__(self, evaluator: PointEvaluator, operands: Any, points: PointSet):
        self.evaluator = evaluator
        self.operands = operands
        self.at = points
        self._inputs = fd.Function(points.space(operands.ufl_shape))
        space = self._inputs.function_space()
        interpolator = fd.get_interpolator(fd.interpolate(operands, space))
        self._interpolate = interpolator._get_callable(tensor=self._inputs)

    def interpolate(self) -> np.ndarray:
        """Evaluate the operands: shape ``(n_owned_points, n_inputs)``.  Collective."""
        self._interpolate()
        return self.inputs

    @property
    def space(self) -> Any:
        """The space of the operands' values."""
        return self._inputs.function_space()

    @property
    def inputs(self) -> np.ndarray:
        """The operands of the last :meth:`interpolate`."""
        return self.at.rows(self._inputs)
