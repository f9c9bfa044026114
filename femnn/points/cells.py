"""Points in cells, to which expressions are interpolated."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint.tape import no_annotations
from ufl.algorithms import extract_arguments

from femnn.points.pointset import Carry, PointSet, Rows
from femnn.points.rules import cell_rule


class InterpolationPoints(PointSet):
    """Points to which expressions are interpolated, as they are those of an element's values."""

    offers_matrices = True

    @no_annotations
    def values_of(self, expression: Any) -> Rows:
        """What interpolates a vector expression to the points; see :class:`PointSet`."""
        space = self.space(expression.ufl_shape)
        target = fd.Function(space)
        interpolator = fd.get_interpolator(fd.interpolate(expression, space))
        evaluate = interpolator._get_callable(tensor=target)

        def rows() -> np.ndarray:
            evaluate()
            return self.rows(target)

        return rows

    @no_annotations
    def transposed(self, change: Any) -> Carry:
        """The transposed interpolation; see :class:`PointSet`."""
        (test,) = extract_arguments(change)
        result = fd.Cofunction(test.function_space().dual())
        at_points = fd.Cofunction(self.space(change.ufl_shape).dual())
        interpolator = fd.get_interpolator(fd.interpolate(change, at_points))
        evaluate = interpolator._get_callable(tensor=result)

        def carried(cotangent: np.ndarray) -> fd.Cofunction:
            self.fill(at_points, cotangent)
            result.zero()
            evaluate()
            return result

        return carried


class CellPoints(InterpolationPoints):
    """The points of the default quadrature rule in cells.

    Parameters
    ----------
    mesh
        The mesh.
    degree
        The rule's degree.
    """

    integral_type = "cell"

    def __init__(self, mesh: Any, degree: int):
        super().__init__(mesh, cell_rule(mesh.ufl_cell(), degree))
        self.degree = degree
