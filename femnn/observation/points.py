"""Values at points as vectors in the points' order, and their block on the tape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint.tape import no_annotations

from femnn.fields.cotangents import Cotangent
from femnn.fields.interpolation import Interpolated
from femnn.parallel import sum_over_ranks
from femnn.tape.interpolation import InterpolationBlock
from femnn.tape.vector import Vector


class PointOrder:
    """The order in which points were given, whichever ranks hold them.  Collective.

    Parameters
    ----------
    vertices
        A VertexOnlyMesh of the points, all given on every rank.
    n
        Their number.

    Attributes
    ----------
    rows : numpy.ndarray
        The place in the order of each point that this rank owns, shape ``(n_owned,)``.
    found : numpy.ndarray
        Which points are in the mesh, shape ``(n,)``, the same on every rank.
    """

    @no_annotations
    def __init__(self, vertices: Any, n: int):
        self.vertices, self.n = vertices, n
        place = fd.Function(fd.FunctionSpace(vertices.input_ordering, "DG", 0))
        data = place.dat.data_wo  # all points on rank 0
        data[...] = np.arange(len(data))
        here = fd.assemble(fd.interpolate(place, fd.FunctionSpace(vertices, "DG", 0)))
        self.rows = np.rint(here.dat.data_ro).astype(int)
        owners = np.zeros(n)
        owners[self.rows] = 1
        self.found = sum_over_ranks(vertices.comm, owners) > 0

    def space(self, shape: tuple[int, ...]) -> Any:
        """The space of values of a shape at the points."""
        if len(shape) == 0:
            return fd.FunctionSpace(self.vertices, "DG", 0)
        if len(shape) == 1:
            return fd.VectorFunctionSpace(self.vertices, "DG", 0, dim=shape[0])
        return fd.TensorFunctionSpace(self.vertices, "DG", 0, shape=shape)

    def gathered(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The rank's values at its points on every rank, shape ``(n, *shape)``.  Collective."""
        every = np.zeros((self.n, *shape))
        every[self.rows] = values.reshape(len(self.rows), *shape)
        return sum_over_ranks(self.vertices.comm, every)


class PointValues:
    """An expression at points.

    Parameters
    ----------
    given
        The expression in the space of values at the points.
    order
        The points' order.
    """

    def __init__(self, given: Interpolated, order: PointOrder):
        self.given, self.order = given, order
        self._shape = given.expression.ufl_shape

    def result(self, values: fd.Function | None) -> Vector:
        """Values in the space, or zeros, as a vector.  Collective."""
        if values is None:
            array = np.zeros((self.order.n, *self._shape))
        else:
            array = self.order.gathered(values.dat.data_ro, self._shape)
        return Vector(array, self.order.vertices.comm, "values at stations")

    def columns(self, changes: np.ndarray | float, n: int) -> np.ndarray:
        """The rank's rows of many changes in the points' order, for all ranks.  Collective."""
        shape, order = (*self._shape, n), self.order
        own = np.broadcast_to(changes, (len(order.rows) * int(np.prod(self._shape, dtype=int)), n))
        return order.gathered(own, shape).reshape(-1, n)

    @no_annotations
    def cotangent_of(self, incoming: Vector | None) -> Cotangent:
        """A cotangent of the vector, or ``None`` for zero, as one of the values."""
        result = Cotangent(self.given.space.dual())
        if incoming is not None:
            data = result.dat.data_wo
            data[...] = incoming.array[self.order.rows].reshape(data.shape)
        return result


class ValuesBlock(InterpolationBlock):
    """An expression evaluated at points, as a vector."""

    def __init__(self, values: PointValues, ad_block_tag: str | None = None):
        super().__init__(values.given, values.given.space, ad_block_tag)
        self._values = values

    def __str__(self) -> str:
        return "values at stations"

    def result(self, values: fd.Function | None) -> Vector:
        """The vector of values in the space, or zeros.  Collective."""
        return self._values.result(values)

    def cotangent_of(self, incoming: Vector | None) -> Cotangent:
        """A cotangent of the vector, or ``None`` for zero, as one of the values in the space."""
        return self._values.cotangent_of(incoming)

    def tangent_columns(self, moving: Mapping[Any, np.ndarray], n: int) -> np.ndarray | None:
        """The vector's changes in many directions; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The changes of those dependencies' nodes that change.
        n
            Number of directions.
        """
        if not all(isinstance(bv.output, fd.Function) for bv in moving):
            return None
        with self._recorded_meshes():
            self._load([bv.saved_output for bv in self.get_dependencies()])
            parts = [self.given.change_columns(bv.output, m) for bv, m in moving.items()]
        total = sum(part for part in parts if part is not None)
        return self._values.columns(total, n)
