"""The directions that data say most of, by products with the misfit's second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mpi4py import MPI
from pyadjoint import Block, ReducedFunctional
from pyadjoint.tape import stop_annotating

from femnn.parallel import from_rank_zero, vector_from_rank_zero
from femnn.tape.counts import count
from femnn.tape.curvature import gauss_newton_product
from femnn.tape.rows import residual_rows
from femnn.training.controls import ControlVector
from femnn.training.metrics import Joined

FIRST = 20  # directions at first, where nobody says how many
MORE = 10  # directions beyond those that are kept
# Where all neglected directions have eigenvalues below, variances are right to this part.
SMALL = 1e-2


class Products:
    """Products with the misfits' second derivatives, in the prior's units.  Collective.

    The functional has been evaluated where they are wanted, with its derivative for exact ones.

    Parameters
    ----------
    Jhat
        The functional.
    controls
        Its controls.
    misfits
        The misfits in it.
    metric
        The prior's precision.
    exact
        Whether to take the whole Hessian, of which the prior's part is taken away.

    Attributes
    ----------
    count : int
        How many there were.
    """

    def __init__(
        self,
        Jhat: ReducedFunctional,
        controls: ControlVector,
        misfits: Sequence[Block],
        metric: Joined,
        exact: bool,
    ):
        self._Jhat, self._controls, self._metric, self._exact = Jhat, controls, metric, exact
        self._terms = [block.get_outputs()[0].output for block in misfits]
        self.count = 0

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The product with a vector, or with each column."""
        if z.ndim == 2:
            return np.stack([self(column) for column in z.T], axis=1)
        self.count += 1
        change = self._controls.values(self._metric.point(z))
        with stop_annotating():
            product = self._exactly(change) if self._exact else self._gauss_newton(change)
        flat = self._metric.gradient(self._controls.flat(product))
        return vector_from_rank_zero(self._controls.comm, flat - z if self._exact else flat)

    def _exactly(self, change: object) -> object:
        count("tangent")
        count("hessian")
        return self._Jhat.hessian(change)

    def _gauss_newton(self, change: object) -> object:
        changes = change if isinstance(change, list) else [change]
        J, tape = self._Jhat.functional, self._Jhat.tape
        return gauss_newton_product(J, self._Jhat.controls, changes, tape, self._terms)


def by_data(
    Jhat: ReducedFunctional, controls: ControlVector, misfits: Sequence[Block], metric: Joined
) -> tuple[np.ndarray, np.ndarray]:
    """All eigenvalues of the misfits' matrix that few data leave, by an adjoint run for each datum.

    Collective.

    Parameters
    ----------
    Jhat, controls, misfits, metric
        As for :class:`Products`; without a schedule.

    Returns
    -------
    values : numpy.ndarray
        Shape ``(n_data,)``, the largest first.
    vectors : numpy.ndarray
        Shape ``(n, n_data)``, orthonormal.
    """
    losses = dict.fromkeys(misfits, 1.0)
    with stop_annotating():
        rows = residual_rows(Jhat.functional, Jhat.controls, Jhat.tape, losses, controls.flat)
    rows = vector_from_rank_zero(controls.comm, metric.gradient(rows.T).T)
    _, roots, vectors = np.linalg.svd(rows, full_matrices=False)
    return roots**2, vectors.T


def eigenpairs(
    product: Callable[[np.ndarray], np.ndarray], n: int, comm: MPI.Comm, rank: int | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """The eigenvalues of largest size of a symmetric matrix, by two passes of random directions.

    Collective.

    Parameters
    ----------
    product
        Of the matrix with columns.
    n
        Its size.
    comm
        The ranks.
    rank
        How many; by default as many as are not small against one.

    Returns
    -------
    values : numpy.ndarray
        Shape ``(k,)``, the largest first.
    vectors : numpy.ndarray
        Shape ``(n, k)``, orthonormal.
    neglected : float
        An estimate of the size of the next one.

    References
    ----------
    N. Halko, P. G. Martinsson, J. A. Tropp, SIAM Rev. 53 (2011), algorithms 4.4 and 5.3;
    A. K. Saibaba, J. Lee, P. K. Kitanidis, Numer. Linear Algebra Appl. 23 (2016).
    """
    random, size = np.random.default_rng(0), rank or FIRST
    basis, image = np.empty((n, 0)), np.empty((n, 0))
    while True:
        more = min(size + MORE, n) - basis.shape[1]
        new = _orthonormal(product(random.standard_normal((n, more))), basis)
        new = vector_from_rank_zero(comm, new)
        basis, image = np.hstack([basis, new]), np.hstack([image, product(new)])
        small = basis.T @ image
        values, vectors = np.linalg.eigh(vector_from_rank_zero(comm, 0.5 * (small + small.T)))
        complete = rank is None and basis.shape[1] == n
        order = np.argsort(-np.abs(values))  # a Hessian may have small ones that are negative
        kept, left = (order, order[:0]) if complete else (order[:size], order[size:])
        neglected = float(np.abs(values[left]).max(initial=0.0))
        if rank is not None or from_rank_zero(comm, neglected <= SMALL):
            kept = kept[np.argsort(-values[kept])]
            return values[kept], vector_from_rank_zero(comm, basis @ vectors[:, kept]), neglected
        size *= 2


def solve(
    product: Callable[[np.ndarray], np.ndarray],
    b: np.ndarray,
    precondition: Callable[[np.ndarray], np.ndarray],
    comm: MPI.Comm,
    tolerance: float = 1e-6,
) -> np.ndarray:
    """The solution of a positive definite system, by conjugate gradients.  Collective.

    Parameters
    ----------
    product
        Of the matrix with a vector.
    b
        The right side, shape ``(n,)``.
    precondition
        An approximate inverse's product.
    comm
        The ranks.
    tolerance
        Where the residual has fallen to this part, it ends.

    Returns
    -------
    numpy.ndarray
        Shape ``(n,)``.
    """
    x, residual = np.zeros_like(b), b.copy()
    direction = z = precondition(residual)
    for _ in range(len(b)):
        if from_rank_zero(comm, np.linalg.norm(residual) <= tolerance * np.linalg.norm(b)):
            break
        image, slope = product(direction), residual @ z
        length = slope / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        z = precondition(residual)
        direction = z + (residual @ z) / slope * direction
    return x


def _orthonormal(new: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """An orthonormal basis of columns, orthogonal to those that are known."""
    for _ in range(2):  # twice is enough
        new = new - basis @ (basis.T @ new)
        new = np.linalg.qr(new)[0]
    return new
