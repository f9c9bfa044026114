"""A smooth function of one or two variables at many points, from few nodes.  Needs numpy only.

Every quantity at the points is one linear map of the same quantity at the nodes: on each piece the
polynomial through its nodes.  Points in no piece are nodes themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from femnn.evaluation.pieces import DEGREE, PER_SIDE, TO_COEFFICIENTS, Cut, Known, resolved

# Points that are interpolated together, so that intermediate results stay in cache: along a line
# by all pieces, on a plane by one piece.
BLOCK, ON_PIECE = 8192, 512


@dataclass(frozen=True)
class Interpolant(ABC):
    """Nodes, and the linear map from values at them to values at the points.

    Attributes
    ----------
    nodes
        Shape ``(n_nodes, d)``: first points that are nodes themselves, then those of the pieces.
    piece
        The piece of each point, shape ``(n_points,)``.
    place
        Where a point lies in its piece, -1 to 1 along each variable, shape ``(d, n_points)``.
    direct
        Rows of the points that are nodes themselves.
    span
        Lengths of the ranges of the points, to a factor of two, shape ``(d,)``.
    known
        The first of the functions that the pieces resolve, at their nodes, shape
        ``(n_nodes - n_direct, m, k)``.
    """

    nodes: np.ndarray
    piece: np.ndarray
    place: np.ndarray
    direct: np.ndarray
    span: np.ndarray
    known: np.ndarray

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values at the points, shape ``(n_points, m)``, from those at the nodes."""
        return self.spread_each(values)[0]

    def spread_each(self, *at_nodes: np.ndarray) -> list[np.ndarray]:
        """The same of several quantities at once."""
        ends = np.cumsum([values.shape[1] for values in at_nodes])[:-1]
        joined = np.concatenate(at_nodes, axis=1) if len(at_nodes) > 1 else at_nodes[0]
        result = self._to_points(joined[self.n_direct :])
        result[self.direct] = joined[: self.n_direct]
        return np.split(result, ends, axis=1)

    def gather(self, cotangent: np.ndarray) -> np.ndarray:
        """The transposed map: shape ``(n_nodes, m)`` from ``(n_points, m)``."""
        rest = cotangent.copy()
        rest[self.direct] = 0.0
        return np.concatenate([cotangent[self.direct], self._to_nodes(rest)])

    @property
    def n_direct(self) -> int:
        """How many points are nodes themselves."""
        return len(self.direct)

    @property
    def n_pieces(self) -> int:
        """How many pieces there are."""
        return (len(self.nodes) - self.n_direct) // PER_SIDE ** len(self.place)

    @abstractmethod
    def _to_points(self, values: np.ndarray) -> np.ndarray:
        """Values at the points from those at the pieces' nodes, each of shape ``(n, m)``."""

    @abstractmethod
    def _to_nodes(self, cotangent: np.ndarray) -> np.ndarray:
        """The transposed of :meth:`_to_points`."""


class Curve(Interpolant):
    """Of one variable: polynomial by polynomial, points in their order."""

    def _to_points(self, values: np.ndarray) -> np.ndarray:
        at_pieces = values.reshape(-1, PER_SIDE, values.shape[1])
        coefficients = np.einsum("kn,pnm->mkp", TO_COEFFICIENTS, at_pieces)
        result = np.empty((values.shape[1], len(self.piece)))
        for rows, pieces, polynomials in self._blocks():
            for j, table in enumerate(coefficients):
                total = table[0].take(pieces)
                for polynomial, row in zip(polynomials, table[1:], strict=True):
                    total += polynomial * row.take(pieces)
                result[j, rows] = total
        return result.T

    def _to_nodes(self, cotangent: np.ndarray) -> np.ndarray:
        m, n = cotangent.shape[1], self.n_pieces
        sums = np.zeros((m, PER_SIDE, n))
        for rows, pieces, polynomials in self._blocks():
            for j in range(m):
                part = cotangent[rows, j]
                sums[j, 0] += np.bincount(pieces, part, n)
                for k, polynomial in enumerate(polynomials, 1):
                    sums[j, k] += np.bincount(pieces, part * polynomial, n)
        return np.einsum("kn,mkp->pnm", TO_COEFFICIENTS, sums).reshape(-1, m)

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray, list[np.ndarray]]]:
        """Some rows at a time, their pieces, and Chebyshev polynomials there but the constant."""
        for start in range(0, len(self.piece), BLOCK):
            rows = slice(start, start + BLOCK)
            yield rows, self.piece[rows], _polynomials(self.place[0, rows])[1:]


class Surface(Interpolant):
    """Of two variables: piece by piece, by products of matrices."""

    def _to_points(self, values: np.ndarray) -> np.ndarray:
        m = values.shape[1]
        grid, T = values.reshape(-1, PER_SIDE, PER_SIDE, m), TO_COEFFICIENTS
        coefficients = np.einsum("ka,lb,pabm->pmkl", T, T, grid, optimize=True)
        coefficients = np.ascontiguousarray(coefficients).reshape(len(grid), m, -1)
        in_order, result = np.empty((m, len(self.piece))), np.empty((m, len(self.piece)))
        for piece, rows, products in self._blocks():
            np.matmul(coefficients[piece], products, out=in_order[:, rows])
        result[:, self._order] = in_order
        return result.T

    def _to_nodes(self, cotangent: np.ndarray) -> np.ndarray:
        m = cotangent.shape[1]
        in_order, sums = cotangent[self._order], np.zeros((self.n_pieces, PER_SIDE**2, m))
        for piece, rows, products in self._blocks():
            sums[piece] += products @ in_order[rows]
        grid, T = sums.reshape(-1, PER_SIDE, PER_SIDE, m), TO_COEFFICIENTS
        return np.einsum("ka,lb,pklm->pabm", T, T, grid, optimize=True).reshape(-1, m)

    @cached_property
    def _order(self) -> np.ndarray:
        """The points, those of a piece one after the other."""
        small = self.n_pieces < 2**15  # for which NumPy sorts in linear time
        return np.argsort(self.piece.astype(np.int16) if small else self.piece, kind="stable")

    def _blocks(self) -> Iterator[tuple[int, slice, np.ndarray]]:
        """A piece, some of its points in that order, and products of polynomials there."""
        ends = np.cumsum(np.bincount(self.piece, minlength=self.n_pieces)).tolist()
        place, start = self.place[:, self._order], 0
        for piece, end in enumerate(ends):
            for first in range(start, end, ON_PIECE):
                rows = slice(first, min(first + ON_PIECE, end))
                one, other = (np.array(_polynomials(t)) for t in place[:, rows])
                yield piece, rows, (one[:, None] * other).reshape(PER_SIDE**2, -1)
            start = end


def interpolant(x: np.ndarray, known: Sequence[Known], budget: int) -> Interpolant | None:
    """The nodes from which functions are known at points to rounding.

    Parameters
    ----------
    x
        Points, shape ``(n_points, d)`` with one or two variables.
    known
        The functions, as far as they are known.
    budget
        Most nodes that are wanted.

    Returns
    -------
    Interpolant or None
        ``None`` where more nodes were needed, or a point is not finite.
    """
    cut = Cut.of(x)
    if cut is None:
        return None
    pieces = resolved(cut, known, budget)
    return _at(x, cut, pieces, known[0].values(cut, pieces)) if len(pieces) else None


def _at(x: np.ndarray, cut: Cut, pieces: np.ndarray, known: np.ndarray) -> Interpolant:
    table = np.full(cut.shape, -1, dtype=np.intp)
    for number, ends in enumerate((pieces - cut.first[:, None]).tolist()):
        table[tuple(slice(*end) for end in ends)] = number
    piece = table.ravel().take(cut.bins)
    direct = np.flatnonzero(piece < 0)
    piece[direct] = 0
    middle, half = cut.middle(pieces), cut.half(pieces)
    place = np.empty(x.T.shape)
    for t, column, at, length in zip(place, x.T, middle.T, half.T, strict=True):
        np.subtract(column, at.take(piece), out=t)
        t /= length.take(piece)
    place[:, direct] = 0.0
    nodes = np.concatenate([x[direct], cut.nodes(pieces).reshape(-1, x.shape[1])])
    kind = Curve if x.shape[1] == 1 else Surface
    return kind(nodes, piece, place, direct, cut.span, known)


def _polynomials(t: np.ndarray) -> list[np.ndarray]:
    """Chebyshev polynomials."""
    double, found = 2 * t, [np.ones_like(t), t]
    for _ in range(DEGREE - 1):
        found.append(double * found[-1] - found[-2])
    return found
