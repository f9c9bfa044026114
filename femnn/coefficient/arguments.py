"""What a coefficient is made of, found from the arguments that the user gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import ufl

from femnn.points.nodes import NodePoints
from femnn.points.places import points_of_measure
from femnn.points.pointset import PointSet
from femnn.points.rules import asked_degree, default_degree


def points_of(
    mesh: Any, operands: tuple[Any, ...], degree: int | None, measure: ufl.Measure, space: Any
) -> PointSet:
    """The points that the arguments name.  Collective.

    Raises
    ------
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
    asked = asked_degree(measure)
    if None not in (degree, asked) and degree != asked:
        raise ValueError(
            f"NeuralCoefficient got degree={degree} and a measure of degree {asked}: give the "
            "degree once."
        )
    degree = asked if degree is None else degree
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
