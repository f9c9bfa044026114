"""Nodes of a space, and the nodal values that Functions hold: read and written there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from finat.ufl import TensorElement, VectorElement
from ufl.constantvalue import Zero
from ufl.core.multiindex import FixedIndex
from ufl.indexed import Indexed
from ufl.tensors import ListTensor

from femnn.points.cells import InterpolationPoints
from femnn.points.continuity import first_jump, shared_between_cells
from femnn.points.pointset import Carry, Rows

Entry = tuple[Any, int]  # a Function, Constant or Argument, and the index of a component


class NodePoints(InterpolationPoints):
    """The nodes of a space whose degrees of freedom are point values.

    Expressions of Functions that hold values at just these nodes are read there, and their
    cotangents written; all others are interpolated.

    Parameters
    ----------
    space
        The function space; of a space of vectors or tensors the nodes count, not the components.

    Raises
    ------
    ValueError
        If the degrees of freedom are not values at points.
    """

    integral_type = "node"

    def __init__(self, space: Any):
        if len(space) > 1 or not space.finat_element.has_pointwise_dual_basis:
            raise ValueError(
                f"the degrees of freedom of {space.ufl_element()} are not values at points: a "
                "network is evaluated at nodes of Lagrange, Quadrature and the like. Use such a "
                "space, and one for each part of a mixed space."
            )
        element = space.ufl_element()
        while element.num_sub_elements and element.family() != "TensorProductElement":
            element = element.sub_elements[0]
        super().__init__(space.mesh(), element)

    def accept(self, inputs: Any) -> Any:
        """The inputs, unless one has several values at a node that cells share.

        Raises
        ------
        ValueError
            If an input differs between cells, and the nodes are not a cell's own.
        """
        if not shared_between_cells(self.space()):
            return inputs
        jump = first_jump(inputs, lambda f: _at_nodes(f, self.mesh, self.element))
        if jump is not None:
            raise ValueError(
                f"a network at the nodes of {self.element} got an operand with {jump}, which "
                "differs between the cells that share a node: project it to a continuous space "
                "first (project(operand, V)), or evaluate the network at nodes of a discontinuous "
                "space or at quadrature points."
            )
        return inputs

    def values_of(self, expression: Any) -> Rows:
        """What reads or interpolates a vector expression at the nodes; see :class:`PointSet`."""
        read = nodal_rows(expression, self.mesh, self.element, self.n_points)
        return super().values_of(expression) if read is None else read

    def transposed(self, change: Any) -> Carry:
        """What carries a cotangent back to a test function; see :class:`PointSet`."""
        carry = nodal_transpose(change, self.mesh, self.element)
        return super().transposed(change) if carry is None else carry


def nodal_rows(expression: Any, mesh: Any, element: Any, n_nodes: int) -> Rows | None:
    """What reads a vector expression at an element's nodes: a row for each that this rank owns.

    ``None`` where a component is not one of a Constant, nor of a Function whose degrees of freedom
    are values at just these nodes.  The rows are overwritten at the next call.
    """
    entries = _entries(_components(expression), mesh, element, (fd.Function, fd.Constant))
    if entries is None:
        return None
    columns: dict[Any, tuple[list[int], list[int]]] = {}
    for column, (source, index) in enumerate(entries):
        pair = columns.setdefault(source, ([], []))
        pair[0].append(column)
        pair[1].append(index)
    rows = np.empty((n_nodes, len(entries)))

    def read() -> np.ndarray:
        for source, (into, indices) in columns.items():
            data = source.dat.data_ro
            if isinstance(source, fd.Constant):
                data = data.reshape(1, -1)
            rows[:, into] = _flat(data)[:, indices]
        return rows

    return read


def nodal_transpose(change: Any, mesh: Any, element: Any) -> Carry | None:
    """What carries a row of cotangents for each node to a test function.

    ``None`` where a component of ``change`` is neither zero nor one of a test function with values
    at just these nodes.  The result is overwritten at the next call.
    """
    components = _components(change)
    moving = [k for k, c in enumerate(components) if not isinstance(c, Zero)]
    entries = _entries([components[k] for k in moving], mesh, element, (ufl.Argument,))
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


def _entries(
    components: Sequence[Any], mesh: Any, element: Any, kinds: tuple
) -> list[Entry] | None:
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
        if not isinstance(source, fd.Constant) and not _at_nodes(source, mesh, element):
            return None
        flat = int(np.ravel_multi_index(place, source.ufl_shape)) if place else 0
        entries.append((source, flat))
    return entries


def _at_nodes(source: Any, mesh: Any, element: Any) -> bool:
    """Whether the degrees of freedom of a Function or Argument are values at just these nodes."""
    space = source.function_space()
    if space.mesh() is not mesh or len(space) > 1:
        return False
    scalar = space.ufl_element()
    if isinstance(scalar, (TensorElement, VectorElement)):
        if space.block_size != np.prod(space.value_shape, dtype=int):
            return False
        scalar = scalar.sub_elements[0]
    return scalar == element


def _flat(data: np.ndarray) -> np.ndarray:
    return data.reshape(len(data), int(np.prod(data.shape[1:], dtype=int)))
