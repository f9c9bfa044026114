"""Where networks can stand: the points of a measure, the nodes of a space."""

from __future__ import annotations

from typing import Any

from femnn.points.cells import CellPoints
from femnn.points.facets import FacetPoints, InteriorFacetPoints
from femnn.points.nodes import NodePoints
from femnn.points.pointset import PointSet


def points_of_measure(mesh: Any, degree: int, integral_type: str = "cell") -> PointSet:
    """The points of the default quadrature rule of a degree.  Collective.

    Parameters
    ----------
    mesh
        The mesh.
    degree
        The rule's degree.
    integral_type
        ``"cell"``, or one of facets, as in UFL.

    Raises
    ------
    ValueError
        If the mesh has no such facets.
    """
    if integral_type == "cell":
        return CellPoints(mesh, degree)
    between_cells = integral_type.startswith("interior_facet")
    return (InteriorFacetPoints if between_cells else FacetPoints)(mesh, degree, integral_type)


def common_nodes(functions: list[Any]) -> NodePoints:
    """The nodes at which all these Functions have their values.

    Raises
    ------
    ValueError
        If they have them at different points, or not at points.
    """
    first, *others = [NodePoints(y.function_space()) for y in functions]
    for y, other in zip(functions[1:], others, strict=True):
        if other.mesh is not first.mesh or other.element != first.element:
            raise ValueError(
                f"{y.name()} has its values at the points of {other.element}, and "
                f"{functions[0].name()} at those of {first.element}: all unknowns of a pointwise "
                "equation must have them at the same points. Use one scalar space, and "
                "VectorFunctionSpace of the same element for several components."
            )
    return first


def QuadratureSpace(mesh: Any, degree: int, shape: tuple[int, ...] = ()) -> Any:
    """The space of values at the points of a quadrature rule in cells.

    States that live at points are Functions on it: those of :class:`~femnn.PointwiseODE` and the
    splittings, and ``previous`` there.  A coefficient of this degree has its values at the same
    points.  Integrals that hold such a Function need this degree: ``dx(degree=degree)``, which
    :func:`femnn.assemble` and the solvers give where a measure says none.

    Parameters
    ----------
    mesh
        The mesh.
    degree
        The degree of polynomials that the rule integrates exactly.
    shape
        Shape of the values at each point.

    Returns
    -------
    firedrake.FunctionSpace
        The space; a Function on it has one row of ``dat`` for each point of the rank's cells.

    Raises
    ------
    NotImplementedError
        If the cells are hexahedra that are not extruded, for which Firedrake has no such space.
    ValueError
        If the degree is not a whole number of at least zero.

    Examples
    --------
    >>> s = Function(femnn.QuadratureSpace(mesh, 4), name="state")
    """
    if int(degree) != degree or degree < 0:
        raise ValueError(f"QuadratureSpace got degree={degree}: wanted a whole number from 0 on.")
    return CellPoints(mesh, int(degree)).space(tuple(shape))
