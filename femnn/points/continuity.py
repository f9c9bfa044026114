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
    pending, seen = [apply_derivatives(apply_algebra_lowering(expression))], set()
    while pending:
        e = pending.pop()
        if e not in seen:
            seen.add(e)
            if _jumps(e, is_single):
                return e
            pending += _inside(e)
    return None


def _jumps(e: Any, is_single: Callable[[Any], bool]) -> bool:
    """Whether an expression differs between cells whatever its operands do."""
    if isinstance(e, fd.Function):
        return not (_is_continuous(e.function_space()) or is_single(e))
    if isinstance(e, Derivative):
        return not _is_smooth(e.ufl_operands[0])
    cellwise = isinstance(e, (GeometricCellQuantity, GeometricFacetQuantity))
    return cellwise and not isinstance(e, SpatialCoordinate)


def _inside(e: Any) -> tuple[Any, ...]:
    """What else an expression can differ by: its operands, but of a Function the part it takes."""
    if isinstance(e, Derivative):
        return ()
    if isinstance(e, Indexed) and isinstance(e.ufl_operands[0], fd.Function):
        part = _part(*e.ufl_operands)
        return () if _is_continuous(part) else (e.ufl_operands[0],)
    return e.ufl_operands


def _is_continuous(space: Any) -> bool:
    element = space.ufl_element()
    return element.family() == "Real" or element in ufl.H1


def _is_smooth(f: Any) -> bool:
    """Whether a Function has one derivative at points that cells share."""
    if not isinstance(f, fd.Function):
        return False
    element = f.function_space().ufl_element()
    return element.family() == "Real" or element in ufl.H2


def _part(f: fd.Function, index: Any) -> Any:
    """The part of a mixed space in which a component is; the space itself where that is open."""
    space = f.function_space()
    if len(space) == 1 or not all(isinstance(i, FixedIndex) for i in index):
        return space
    sizes = [int(np.prod(part.value_shape, dtype=int)) for part in space]
    (component,) = (int(i) for i in index)
    return space[int(np.searchsorted(np.cumsum(sizes), component, side="right"))]
