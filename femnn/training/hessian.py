"""The Hessian's action as a PETSc matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from petsc4py import PETSc

from femnn.parallel import from_rank_zero
from femnn.tape.petsc import OnRankZero
from femnn.training.coordinates import Coordinates
from femnn.training.curvature import Curvature
from femnn.training.run import Run


class Hessian:
    """The Hessian at one point in an optimiser's coordinates, with a multiple of the identity.

    Parameters
    ----------
    run
        The training.
    coordinates
        The optimiser's coordinates.
    vectors
        The optimiser's vectors.
    guarded
        What its methods are passed through, for errors.
    """

    def __init__(
        self,
        run: Run,
        coordinates: Coordinates,
        vectors: OnRankZero,
        guarded: Callable[..., Any],
    ):
        self._run, self._coordinates = run, coordinates
        self._vectors, self._guarded = vectors, guarded
        self._product = Curvature(run.loss, coordinates)
        self._product.exact = True
        self._at, self._shift = run.loss.best.vector, 0.0
        self.mult = guarded(self._mult)

    def matrix(self) -> PETSc.Mat:
        """The matrix.  Collective."""
        return self._vectors.matrix(self)

    def move(self, y: np.ndarray) -> None:
        """Be the Hessian at this point, which was evaluated.  Collective."""
        self._at, self._shift = self._coordinates.point(y), 0.0

    def act(self, direction: np.ndarray) -> np.ndarray:
        """The action on a direction, shape ``(n,)``.  Collective."""
        self._run(self._at)  # the last point again, where a step to another was not accepted
        return self._product(direction) + self._shift * direction

    # What PETSc calls.

    def _mult(self, matrix: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:
        self._vectors.write(y, self.act(self._vectors.read(x)))

    def shift(self, matrix: PETSc.Mat, multiple: float) -> None:
        """Add a multiple of the identity."""
        self._shift += multiple

    def createSubMatrix(
        self, matrix: PETSc.Mat, rows: PETSc.IS, columns: PETSc.IS, known: PETSc.Mat | None = None
    ) -> PETSc.Mat:
        """The part that bounds leave free, whose rows and columns are the same.  Collective."""
        indices = from_rank_zero(self._vectors.comm, rows.getIndices().copy())
        vectors = OnRankZero(self._vectors.comm, len(indices))
        part = _Part(self.act, self._vectors.size, indices, vectors)
        part.mult = self._guarded(part.mult)
        return vectors.matrix(part)


class _Part:
    """Some rows of a symmetric matrix, and the same columns."""

    def __init__(
        self,
        act: Callable[[np.ndarray], np.ndarray],
        size: int,
        indices: np.ndarray,
        vectors: OnRankZero,
    ):
        self._act, self._size, self._indices, self._vectors = act, size, indices, vectors
        self._shift = 0.0
        self.mult: Callable[..., None] = self._mult

    def _mult(self, matrix: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:
        own, direction = self._vectors.read(x), np.zeros(self._size)
        direction[self._indices] = own
        action = self._act(direction)[self._indices]
        self._vectors.write(y, action + self._shift * own)

    def shift(self, matrix: PETSc.Mat, multiple: float) -> None:
        """Add a multiple of the identity."""
        self._shift += multiple
