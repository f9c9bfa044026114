"""The precision of a smooth random field as an inner product of its values."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from femnn.training.layout import Layout, rows_of
from femnn.training.metrics import Factorised

# Columns that are worked on together.
BLOCK = 256


class Smooth:
    """The precision ``K = W M^-1 W'`` of fields that are white noise, smoothed; a ``Metric``.

    With the mass matrix M, its factor ``M = C C'`` and an operator A, fields are
    ``x = w (A^-1 M)^(h-1) A^-1 C z`` with independent normal numbers z.

    Parameters
    ----------
    operator
        The bilinear form of A.
    half
        The number h of solves.
    weight
        The number w.
    layout
        The field's values as a vector.

    Attributes
    ----------
    precision : float
        A factor of K.

    Raises
    ------
    ValueError
        If the mass matrix is not positive definite, or A is singular.

    References
    ----------
    F. Lindgren, H. Rue, J. Lindstrom, J. R. Stat. Soc. B 73 (2011), for fields by a differential
    operator; A. T. Weaver, I. Mirouze, Q. J. R. Meteorol. Soc. 139 (2013), for several solves.
    """

    is_diagonal = False

    def __init__(self, operator: Any, half: int, weight: float, layout: Layout):
        space = operator.arguments()[0].function_space()
        mass = fd.inner(fd.TrialFunction(space), fd.TestFunction(space)) * fd.dx
        self._mass = _matrix(mass, layout)
        self._noise = Factorised(self._mass, np.ones(len(layout)))
        self._half, self._weight, self.precision = half, weight, 1.0
        if half:
            self._operator = _matrix(operator, layout)
            self._solve = _factors(self._operator).solve

    @property
    def _size(self) -> float:
        return self._weight / np.sqrt(self.precision)

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """The numbers z of a field; see :class:`femnn.training.metrics.Metric`."""
        x = x / self._size
        if not self._half:
            return self._noise.coordinates(x)
        for _ in range(self._half - 1):
            x = self._noise.representer(self._operator @ x)
        return self._noise.gradient(self._operator @ x)

    def point(self, y: np.ndarray) -> np.ndarray:
        """The field of numbers z."""
        x = self._noise.point(y)
        for _ in range(self._half):
            x = self._solve(self._mass @ x)
        return self._size * x

    def gradient(self, g: np.ndarray) -> np.ndarray:
        """The gradient in z, from that in the field's values."""
        g = self._size * g
        if not self._half:
            return self._noise.gradient(g)
        for _ in range(self._half - 1):
            g = self._mass @ self._solve(g, "T")
        return self._noise.coordinates(self._solve(g, "T"))

    def representer(self, g: np.ndarray) -> np.ndarray:
        """The covariance times a vector."""
        return self.point(self.gradient(g))

    def product(self, x: np.ndarray) -> np.ndarray:
        """The precision times a vector."""
        g = self._noise.point(self.coordinates(x)) / self._size
        if not self._half:
            return self._mass @ g
        for _ in range(self._half - 1):
            g = self._noise.representer(self._operator.T @ g)
        return self._operator.T @ g

    def integrals(self, columns: np.ndarray) -> np.ndarray:
        """The integrals of the squares of fields, which are the columns, shape ``(k,)``."""
        return (self._noise.coordinates(columns) ** 2).sum(0)


def unit_blocks(n: int) -> list[np.ndarray]:
    """The unit vectors of length n as columns of blocks."""
    blocks = []
    for start in range(0, n, BLOCK):
        block = np.zeros((n, min(BLOCK, n - start)))
        block[start + np.arange(block.shape[1]), np.arange(block.shape[1])] = 1.0
        blocks.append(block)
    return blocks


def variances(metric: Any, n: int) -> np.ndarray:
    """The variance of each value where the precision is a metric, shape ``(n,)``."""
    return sum(((metric.point(e) ** 2).sum(1) for e in unit_blocks(n)), np.zeros(n))


def _matrix(form: Any, layout: Layout) -> scipy.sparse.csc_array:
    assembled = fd.assemble(form, mat_type="aij").petscmat
    starts, columns, values = rows_of(assembled, form.arguments()[0].function_space().comm)
    return scipy.sparse.csr_array((values, columns, starts), shape=(len(layout),) * 2).tocsc()


def _factors(matrix: scipy.sparse.csc_array) -> Any:
    try:
        return scipy.sparse.linalg.splu(matrix)
    except RuntimeError as error:
        raise ValueError(
            f"FieldPrior: the operator's matrix cannot be factorised ({error}): wanted one that is "
            "positive definite, such as (delta * u * v + gamma * inner(grad(u), grad(v))) * dx."
        ) from error
