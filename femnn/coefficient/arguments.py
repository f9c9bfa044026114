"""What a coefficient is made of, found from the arguments that the user gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import ufl
from ufl.algorithms import extract_arguments, extract_coefficients

from femnn.coefficient.computed import ComputedFunction
from femnn.evaluation.evaluator import total_inputs
from femnn.points.nodes import NodePoints
from femnn.points.operands import as_expressions
from femnn.points.places import points_of_measure
from femnn.points.pointset import PointSet
from femnn.points.rules import asked_degree, default_degree


def checked_operands(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands as UFL expressions.

    Raises
    ------
    NotImplementedError
        If one contains a neural coefficient.
    TypeError
        If one is not a UFL expression, or contains a test or trial function.
    ValueError
        If there are none.
    """
    if not operands:
        raise ValueError(
            "NeuralCoefficient got a network but no operands: give at least one UFL expression, "
            "for example the unknown u or SpatialCoordinate(mesh)."
        )
    expressions = as_expressions(operands)
    for expression in expressions:
        for argument in extract_arguments(expression):
            raise TypeError(
                f"the operand {expression} contains {argument}, a test or trial function, which "
                "has no values: a network is not linear in what it takes. Write the operand with "
                "the unknown, and the problem as F == 0."
            )
        for nested in extract_coefficients(expression):
            if isinstance(nested, ComputedFunction):
                raise NotImplementedError(
                    f"the operand {expression} contains the neural coefficient {nested.name()}: "
                    "compose the two networks in one torch module instead."
                )
    return expressions


def n_components(operands: tuple[Any, ...]) -> int:
    """The number of components of all operands together: of the network's inputs."""
    return total_inputs([operand.ufl_shape for operand in operands])


def points_of(
    mesh: Any, operands: tuple[Any, ...], degree: int | None, measure: ufl.Measure, space: Any
) -> PointSet:
    """The points that the arguments name.  Collective.

    Raises
    ------
    TypeError
        If the measure is none.
    ValueError
        If they name several, or none that there are.
    """
    if space is not None:
        if degree is not None:
            raise ValueError(
                f"NeuralCoefficient got space={space} and degree={degree}: a network is evaluated "
                "at a space's nodes or at quadrature points, give one of the two."
            )
        return NodePoints(space)
    if not isinstance(measure, ufl.Measure):
        raise TypeError(
            f"NeuralCoefficient got measure={measure!r}, a {type(measure).__name__}: wanted a "
            "measure itself, such as dx, ds or dS(degree=4)."
        )
    asked = asked_degree(measure)
    if None not in (degree, asked) and degree != asked:
        raise ValueError(
            f"NeuralCoefficient got degree={degree} and a measure of degree {asked}: give the "
            "degree once."
        )
    degree = asked if degree is None else degree
    if degree is not None and (int(degree) != degree or degree < 0):
        raise ValueError(
            f"NeuralCoefficient got the quadrature degree {degree}: wanted a whole number of at "
            "least 0."
        )
    degree = default_degree(mesh, operands) if degree is None else int(degree)
    return points_of_measure(mesh, degree, measure.integral_type())


def space_of(
    points: PointSet, n_outputs: int, name: str, shape: tuple[int, ...] | None, space: Any
) -> Any:
    """The function space of the values of a network with this name and number of outputs.

    Raises
    ------
    ValueError
        If the shape that is wanted does not hold the network's outputs.
    """
    shape = shape if space is None else space.value_shape
    if shape is None:
        shape = () if n_outputs == 1 else (n_outputs,)
    wanted = int(np.prod(shape, dtype=int))
    if wanted != n_outputs:
        raise ValueError(
            f"the network {name} has {n_outputs} outputs, shape={shape} wants {wanted}: the two "
            "must agree."
        )
    return points.space(tuple(shape)) if space is None else space
