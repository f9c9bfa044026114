"""The values of a field as one vector, the same on every rank."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from femnn.fields.copies import is_real
from femnn.parallel import Pieces, from_rank_zero


class Layout:
    """Where the values of a space's fields stand in one vector.  Collective.

    The ranks' values come one after the other, as the rows of an assembled matrix.  Those of a
    Real space, which every rank has, are rank 0's.

    Parameters
    ----------
    field
        A Function on the space, or on its dual.

    Attributes
    ----------
    comm : mpi4py.MPI.Comm
        The ranks.
    local : list of slice
        For each part of a mixed space its place among this rank's values (see :meth:`own`).
    """

    def __init__(self, field: Any):
        space = field.function_space()
        self.comm = space.comm
        self._real = [is_real(part) for part in space.subspaces]
        lengths = [dat.data_ro.size for dat in field.dat.split]
        ends = np.cumsum([0, *lengths])
        self.local = [slice(a, b) for a, b in pairwise(ends)]
        owned = np.ones(ends[-1], dtype=bool)
        for place, real in zip(self.local, self._real, strict=True):
            owned[place] = not real or self.comm.rank == 0
        self._owned = owned
        self._pieces = Pieces(self.comm, int(owned.sum()))
        self._places = self._places_of(owned)

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def local_length(self) -> int:
        """Number of the values that this rank has."""
        return len(self._owned)

    def own(self, field: Any) -> np.ndarray:
        """The values that this rank has of a Function or Cofunction, all parts in one array."""
        return np.concatenate([dat.data_ro.ravel() for dat in field.dat.split])

    def gather(self, own: np.ndarray) -> np.ndarray:
        """The vector from each rank's values, shape ``(local_length,)``.  Collective."""
        return self._pieces.gather(own[self._owned])

    def vector(self, field: Any) -> np.ndarray:
        """The values of a Function or Cofunction as the vector.  Collective."""
        return self.gather(self.own(field))

    def whole(self, rows: np.ndarray) -> np.ndarray:
        """The vector from each rank's part of it, shape ``(n_owned,)``.  Collective."""
        return self._pieces.gather(rows)

    def rows(self, matrix: np.ndarray) -> np.ndarray:
        """The rank's rows of a matrix with a row for each entry of the vector."""
        return self._pieces.own(matrix)

    def store(self, vector: np.ndarray, field: Any) -> None:
        """Give a Function the values of a vector, shape ``(len(self),)``.  Collective."""
        own = vector[self._places]
        for dat, place in zip(field.dat.split, self.local, strict=True):
            data = dat.data_wo
            data[...] = own[place].reshape(data.shape)

    def _places_of(self, owned: np.ndarray) -> np.ndarray:
        """The places of this rank's values in the vector; collective."""
        places = np.empty(len(owned), dtype=int)
        places[owned] = self._pieces.places
        for local, real in zip(self.local, self._real, strict=True):
            if real:
                places[local] = from_rank_zero(self.comm, places[local])
        return places


def rows_of(matrix: Any, comm: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows of a PETSc matrix, in compressed form, on every rank.  Collective."""
    starts, columns, values = matrix.getValuesCSR()
    lengths = Pieces(comm, len(starts) - 1).gather(np.diff(starts))
    entries = Pieces(comm, len(columns))
    return np.cumsum([0, *lengths]), entries.gather(columns), entries.gather(values)
