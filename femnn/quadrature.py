"""A network at the quadrature points of a mesh: operands in, values and derivatives out."""

from __future__ import annotations

from collections.abc import Sequence
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


def quadrature_space(mesh: Any, degree: int, shape: tuple[int, ...] = ()) -> Any:
    """Space of values of ``shape`` at the points of the rule of ``degree`` in each cell."""
    element = FiniteElement("Quadrature", mesh.ufl_cell(), degree, quad_scheme="default")
    if len(shape) == 1:
        element = VectorElement(element, dim=shape[0])
    elif shape:
        element = TensorElement(element, shape=shape)
    return fd.FunctionSpace(mesh, element)


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
    """One network at the quadrature points that this rank owns.

    Parameters
    ----------
    evaluator
        The network.
    operands
        UFL vector of the network's inputs.
    mesh, degree
        Where: the points of the rule of this degree in each cell.
    """

    @no_annotations
    def __init__(self, evaluator: PointEvaluator, operands: Any, mesh: Any, degree: int):
        self.evaluator = evaluator
        self.operands = operands
        self.comm = mesh.comm
        self.degree = degree
        (n_inputs,) = operands.ufl_shape
        self._inputs = fd.Function(quadrature_space(mesh, degree, (n_inputs,)))
        space = self._inputs.function_space()
        interpolator = fd.get_interpolator(fd.interpolate(operands, space))
        self._interpolate = interpolator._get_callable(tensor=self._inputs)

    def interpolate(self) -> np.ndarray:
        """Evaluate the operands: shape ``(n_owned_points, n_inputs)``.  Collective."""
        self._interpolate()
        return self.inputs

    @property
    def space(self) -> Any:
        """The Quadrature space of the operands."""
        return self._inputs.function_space()

    @property
    def inputs(self) -> np.ndarray:
        """The operands of the last :meth:`interpolate`."""
        n_inputs = self.evaluator.n_inputs
        return self._inputs.dat.data_ro.reshape(-1, n_inputs)


def fill(function: Any, values: np.ndarray) -> None:
    """Write one row of ``values`` for each owned point into a Function on a Quadrature space."""
    data = function.dat.data_wo
    data[...] = values.reshape(data.shape)


def rows(function: Any) -> np.ndarray:
    """The owned points' values of a Function or Cofunction, shape ``(n_owned_points, n)``."""
    data = function.dat.data_ro
    return data.reshape(len(data), int(np.prod(data.shape[1:], dtype=int)))
