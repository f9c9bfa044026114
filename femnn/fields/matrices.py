"""Products of sparse matrices with many columns at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from firedrake.petsc import PETSc


def times_columns(matrix: Any, columns: np.ndarray) -> np.ndarray:
    """A sparse matrix times many columns.  Collective.

    Parameters
    ----------
    matrix
        A PETSc matrix.
    columns
        The rank's rows of them, shape ``(n_owned, n)``.

    Returns
    -------
    numpy.ndarray
        The rank's rows of the products, shape ``(n_owned_rows, n)``.
    """
    return matrix.matMult(dense(columns, matrix.comm)).getDenseArray().copy()


def dense(columns: np.ndarray, comm: Any) -> Any:
    """Columns, of which each rank has its rows, as a dense PETSc matrix.  Collective."""
    rows = np.asfortranarray(columns)
    size = ((len(rows), PETSc.DETERMINE), (PETSc.DECIDE, rows.shape[1]))
    return PETSc.Mat().createDense(size, array=rows, comm=comm)
