"""PETSc vectors on which all ranks decide alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from femnn.parallel import vector_from_rank_zero


class OnRankZero:
    """PETSc vectors with all their entries on rank 0.

    What PETSc computes from such vectors is the same number on every rank.  On vectors of each
    rank's own it need not be, for sums depend on where in memory a vector begins.

    Parameters
    ----------
    comm
        The ranks.
    size
        Number of entries.
    """

    def __init__(self, comm: MPI.Comm, size: int):
        self.comm, self.size = comm, size
        self.sizes = (size if comm.rank == 0 else 0, size)

    def new(self, values: np.ndarray) -> PETSc.Vec:
        """A vector with these values, shape ``(size,)``.  Collective."""
        comm: Any = self.comm
        vector = PETSc.Vec().createMPI(self.sizes, comm=comm)
        self.write(vector, values)
        return vector

    def read(self, vector: PETSc.Vec) -> np.ndarray:
        """A copy of the values, shape ``(size,)``, the same on every rank.  Collective."""
        own = vector.array_r
        return vector_from_rank_zero(self.comm, own.copy() if len(own) else np.empty(self.size))

    def write(self, vector: PETSc.Vec, values: np.ndarray) -> None:
        """Set the values, shape ``(size,)``.  Collective."""
        own = vector.array_w  # on every rank, so that all know that the vector has changed
        own[...] = values[: len(own)]

    def matrix(self, context: object) -> PETSc.Mat:
        """A symmetric matrix that acts on such vectors as a Python object does.  Collective."""
        comm: Any = self.comm
        matrix = PETSc.Mat().createPython((self.sizes, self.sizes), context, comm=comm)
        matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)  # type: ignore[arg-type]
        matrix.setUp()
        matrix.assemble()
        return matrix
