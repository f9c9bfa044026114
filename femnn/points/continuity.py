"""Whether expressions have one value at points that several cells share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives
from ufl.classes import Derivative, GeometricCellQuantity, GeometricFacetQuantity, SpatialCoordinate
from ufl.core.multiindex import FixedIndex
from ufl.indexed import Indexed


def shared_between_cells(space: Any) -> bool:
    """Whether a space has degrees of freedom that more than one cell has."""
    element = space.finat_element
    top = element.cell.get_dimension()
    return any(
        dofs
        for dimension, entities in element.entity_dofs().items()
        for dofs in entities.values()
        if dimension != top
    )


def first_jump(expression: Any, is_single: Callable[[Any], bool]) -> Any | None:
    """What differs between cells in an expression; ``None`` where nothing does.

    Parameters
    ----------
    expression
        A UFL expression.
    is_single
        Tells of a Function whether it has one value at the points, though its space is not a
        continuous one.
    """
    lowered = apply_derivatives(apply_algebra_lowering(expression))
    return _first_jump(lowered, is_single)


def _first_jump(e: Any, is_single: Callable[[Any], bool]) -> Any | None:
    if isinstance(e, fd.Function):
        return None if _is_continuous(e.function_space()) or is_single(e) else e
    if isinstance(e, Indexed) and isinstance(e.ufl_operands[0], fd.Function):
        part = _part(*e.ufl_operands)
        return None if part is not None and _is_continuous(part) else _of(e, is_single)
    if isinstance(e, Derivative):
        return None if _is_smooth(e.ufl_operands[0]) else e
    if isinstance(e, (GeometricCellQuantity, GeometricFacetQuantity)):
        return None if isinstance(e, SpatialCoordinate) else e
    return _of(e, is_single)


def _of(e: Any, is_single: Callable[[Any], bool]) -> Any | None:
    """The first jump among an expression's operands."""
    return next((j for o in e.ufl_operands if (j := _first_jump(o, is_single)) is not None), None)


def _is_continuous(space: Any) -> bool:
    element = space.ufl_element()
    return element.family() == "Real" or element in ufl.H1


def _is_smooth(f: Any) -> bool:
    """Whether a Function has one derivative at points that cells share."""
    if not isinstance(f, fd.Function):
        return False
    element = f.function_space().ufl_element()
    return element.family() == "Real" or element in ufl.H2


def _part(f: fd.Function, index: Any) -> Any | None:
    """The part of a mixed space, or the space, in which a component is."""
    space = f.function_space()
    if len(space) == 1 or not all(isinstance(i, FixedIndex) for i in index):
        return space
    sizes = [int(np.prod(part.value_shape, dtype=int)) for part in space]
    (component,) = (int(i) for i in index)
    return space[int(np.searchsorted(np.cumsum(sizes), component, side="right"))]
