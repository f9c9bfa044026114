"""Vectors of nodal values that Functions hold: read and written there, without interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import firedrake as fd
import numpy as np
import ufl
from finat.ufl import TensorElement, VectorElement
from ufl.constantvalue import Zero
from ufl.core.multiindex import FixedIndex
from ufl.indexed import Indexed
from ufl.tensors import ListTensor

if TYPE_CHECKING:
    from femnn.points.pointset import PointSet

Entry = tuple[Any, int]  # a Function, Constant or Argument, and the index of a component


def nodal_rows(expression: Any, at: PointSet) -> Callable[[], np.ndarray] | None:
    """What reads a vector expression at the nodes: a row for each that this rank owns.

    ``None`` where a component is not one of a Constant, nor of a Function whose degrees of freedom
    are values at just these nodes.  The rows are overwritten at the next call.
    """
    entries = _entries(_components(expression), at, (fd.Function, fd.Constant))
    if entries is None:
        return None
    columns: dict[Any, tuple[list[int], list[int]]] = {}
    for column, (source, index) in enumerate(entries):
        pair = columns.setdefault(source, ([], []))
        pair[0].append(column)
        pair[1].append(index)
    rows = np.empty((at.space().node_set.size, len(entries)))

    def read() -> np.ndarray:
        for source, (into, indices) in columns.items():
            data = source.dat.data_ro
            if isinstance(source, fd.Constant):
                data = data.reshape(1, -1)
            rows[:, into] = _flat(data)[:, indices]
        return rows

    return read


def nodal_transpose(change: Any, at: PointSet) -> Callable[[np.ndarray], fd.Cofunction] | None:
    """What carries a row of cotangents for each node to a test function.

    ``None`` where a component of ``change`` is neither zero nor one of a test function with values
    at just these nodes.  The result is overwritten at the next call.
    """
    components = _components(change)
    moving = [k for k, c in enumerate(components) if not isinstance(c, Zero)]
    entries = _entries([components[k] for k in moving], at, (ufl.Argument,))
    if not entries:
        return None
    (test,) = {source for source, _ in entries}
    result = fd.Cofunction(test.function_space().dual())

    def carry(cotangent: np.ndarray) -> fd.Cofunction:
        data = result.dat.data_wo
        flat = _flat(data)
        flat[...] = 0.0
        for column, (_, index) in zip(moving, entries, strict=True):
            flat[:, index] += cotangent[:, column]
        return result

    return carry


def _components(expression: Any) -> list[Any]:
    if isinstance(expression, ListTensor):
        return list(expression.ufl_operands)
    return [expression[k] for k in range(expression.ufl_shape[0])]


def _entries(components: Sequence[Any], at: PointSet, kinds: tuple) -> list[Entry] | None:
    """Each component as one of something of these kinds, where all are."""
    entries = []
    for component in components:
        source = component
        place: tuple[int, ...] = ()
        if isinstance(component, Indexed):
            source, index = component.ufl_operands
            if not all(isinstance(i, FixedIndex) for i in index):
                return None
            place = tuple(int(i) for i in index)
        if not isinstance(source, kinds) or len(place) != len(source.ufl_shape):
            return None
        if not isinstance(source, fd.Constant) and not _at_nodes(source.function_space(), at):
            return None
        flat = int(np.ravel_multi_index(place, source.ufl_shape)) if place else 0
        entries.append((source, flat))
    return entries


def _at_nodes(space: Any, at: PointSet) -> bool:
    """Whether a space's degrees of freedom are values at just these nodes."""
    if space.mesh() is not at.mesh or len(space) > 1:
        return False
    element = space.ufl_element()
    if isinstance(element, (TensorElement, VectorElement)):
        if space.block_size != np.prod(space.value_shape, dtype=int):
            return False
        element = element.sub_elements[0]
    return element == at.element


def _flat(data: np.ndarray) -> np.ndarray:
    return data.reshape(len(data), int(np.prod(data.shape[1:], dtype=int)))
