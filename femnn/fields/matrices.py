"""Products of sparse matrices with many columns at once, and what linear solves leave over."""

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


def left_over(matrix: PETSc.Mat, x: PETSc.Vec, b: PETSc.Vec, transposed: bool) -> PETSc.Vec:
    """The residual, without what the null space holds."""
    residual = b.duplicate()
    (matrix.multTranspose if transposed else matrix.mult)(x, residual)
    residual.aypx(-1.0, b)
    kernel = matrix.getNullSpace() if transposed else matrix.getTransposeNullSpace()
    if kernel.handle:
        kernel.remove(residual)
    return residual


def relative(residual: PETSc.Vec, b: PETSc.Vec) -> float:
    """A residual's norm over the right side's; zero where both are."""
    scale = b.norm()
    return residual.norm() / scale if scale > 0 else 0.0
