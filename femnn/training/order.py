"""An order of a field's values that does not depend on how a mesh is spread over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint.tape import no_annotations

from femnn.fields.copies import is_real
from femnn.parallel import Pieces, any_rank, exchanged, max_over_ranks
from femnn.points.continuity import shared_between_cells
from femnn.points.nodes import NodePoints

# Coordinates that differ by less than this share of the mesh's size are one.  The factor keeps
# those of regular meshes away from where rounding goes the one way or the other.
RESOLUTION = 1e-9 / np.sqrt(3)
LARGEST = 2**62 - 1


@no_annotations
def geometric_order(field: Any) -> np.ndarray:
    """The places of a field's values in the vector of all ranks, in an order of where they stand.

    Values are known by the part of a mixed space, the node's coordinates, in discontinuous spaces
    those of its cell's middle, and the component.  They are sorted by a hash of these, so that
    each rank sorts its share, whatever the mesh looks like.

    Parameters
    ----------
    field
        A Function whose degrees of freedom are values at points.

    Returns
    -------
    numpy.ndarray
        As many integers as the field has values, the same on every rank.  Collective.

    Raises
    ------
    ValueError
        If degrees of freedom are not values at points, or two stand at one place.
    """
    space = field.function_space()
    width = 2 * space.mesh().geometric_dimension + 2
    own = np.concatenate([_keys(k, part, width) for k, part in enumerate(space.subspaces)])
    hashes = _hashes(own)
    table = np.column_stack([own, hashes, Pieces(space.comm, len(own)).places])
    # Each rank gets a range of the hashes, so that its values follow those of the rank before.
    rows = exchanged(space.comm, table, hashes // (LARGEST // space.comm.size + 1))
    rows = rows[np.lexsort(rows.T[:-1])]  # by the hash first
    keys, places = rows[:, :-2], rows[:, -1]
    if any_rank(space.comm, bool((keys[1:] == keys[:-1]).all(axis=1).any())):
        raise ValueError(
            f"two values of {field.name()} stand at one place of the mesh, so they cannot be told "
            "apart in a checkpoint: take a space without such nodes."
        )
    return Pieces(space.comm, len(places)).gather(places)


def _hashes(keys: np.ndarray) -> np.ndarray:
    """A whole number from 0 to ``LARGEST`` for each row, spread evenly.

    The mixing is that of Steele, Lea and Flood, Fast splittable pseudorandom number generators
    (2014).
    """
    mixed = np.zeros(len(keys), dtype=np.uint64)
    for column in np.ascontiguousarray(keys.T).view(np.uint64):
        mixed = mixed + column + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed & np.uint64(LARGEST)).astype(np.int64)


def _keys(index: int, part: Any, width: int) -> np.ndarray:
    """What tells the values that this rank has of a part, a row for each, as whole numbers."""
    comm = part.comm
    if is_real(part):
        n = part.value_size if comm.rank == 0 else 0
        places = np.zeros((n, width - 2))
        return _rows(index, places, np.arange(n))
    try:
        nodes = NodePoints(part)
    except ValueError as error:
        raise ValueError(
            f"a checkpoint holds values at points, and a control is a field of "
            f"{part.ufl_element()}: take a field of a Lagrange space, or leave checkpoint out."
        ) from error
    places = np.concatenate(list(_places(nodes, part.mesh())), axis=1)
    scale = np.array([max_over_ranks(comm, np.abs(c).max(initial=0.0)) for c in places.T])
    whole = np.round(places / (np.where(scale > 0, scale, 1.0) * RESOLUTION))
    repeated = np.repeat(whole, part.block_size, axis=0)
    return _rows(index, repeated, np.tile(np.arange(part.block_size), len(whole)))


def _rows(index: int, places: np.ndarray, components: np.ndarray) -> np.ndarray:
    return np.column_stack([np.full(len(places), index), places, components]).astype(np.int64)


def _places(nodes: NodePoints, mesh: Any) -> Iterator[np.ndarray]:
    """The nodes' coordinates, and those of their cells' middles where the nodes are the cells'."""
    x = fd.SpatialCoordinate(mesh)
    own = nodes.values_of(x)().copy()
    yield own
    if shared_between_cells(nodes.space()):
        yield np.zeros_like(own)
    else:
        middles = fd.Function(fd.VectorFunctionSpace(mesh, "DG", 0)).interpolate(x)
        yield nodes.values_of(middles)().copy()
