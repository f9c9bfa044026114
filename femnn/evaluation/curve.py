"""A smooth function of one variable at many points, from few nodes.  Needs numpy only.

The range of the points is bisected until the function is a polynomial to rounding on each piece,
which its Chebyshev coefficients there show; pieces without points are left out.  Where that does
not come to an end, as at a kink, the points themselves are nodes.  So every quantity at the points
is one linear map of the same quantity at the nodes.

L. N. Trefethen: Approximation Theory and Approximation Practice (2013), chapters 3, 4 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# Polynomials of this degree need the fewest nodes for networks of usual steepness at 1e-15.
DEGREE = 9
PER_PIECE = DEGREE + 1
# The range is cut into 2**FIRST pieces at first, and into 2**LAST at most.
FIRST, LAST = 4, 12
# A function is resolved where what its polynomial leaves out is below this share of its size on
# the piece.  Above it but below NOISE, what bisection does not lower is rounding of the function.
RESOLVED = 8 * np.finfo(float).eps
NOISE = 1e-11
# Points that are interpolated together, so that intermediate results stay in cache.
BLOCK = 8192

_ANGLES = np.pi * (np.arange(PER_PIECE) + 0.5) / PER_PIECE
_NODES = np.cos(_ANGLES)
# Takes values at the nodes to Chebyshev coefficients.
_TO_COEFFICIENTS = (2 / PER_PIECE) * np.cos(np.outer(np.arange(PER_PIECE), _ANGLES))
_TO_COEFFICIENTS[0] /= 2

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Cut:
    """The range of the points, cut into pieces of equal lengths, and how many points each has.

    Attributes
    ----------
    bins
        The finest piece in which each point lies.
    counts
        Number of points before each of the finest pieces.
    """

    start: float
    width: float
    bins: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, start: float, span: float) -> _Cut:
        n = 2**LAST
        width = span / n
        bins = np.minimum(((x - start) / width).astype(np.intp), n - 1)
        counts = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=n))])
        return cls(start, width, bins, counts)

    @property
    def span(self) -> float:
        """Length of the range."""
        return self.width * 2**LAST

    def points_in(self, pieces: np.ndarray) -> np.ndarray:
        """How many points lie in each piece, given by first and last of the finest ones."""
        return self.counts[pieces[:, 1]] - self.counts[pieces[:, 0]]

    def middle(self, pieces: np.ndarray) -> np.ndarray:
        return self.start + self.width * pieces.sum(axis=1) / 2

    def half(self, pieces: np.ndarray) -> np.ndarray:
        return self.width * (pieces[:, 1] - pieces[:, 0]) / 2

    def nodes(self, pieces: np.ndarray) -> np.ndarray:
        """Chebyshev nodes, shape ``(n_pieces, PER_PIECE)``."""
        return self.middle(pieces)[:, None] + self.half(pieces)[:, None] * _NODES


@dataclass(frozen=True)
class Curve:
    """Nodes, and the linear map from values at them to values at the points.

    Attributes
    ----------
    nodes
        Shape ``(n_nodes,)``: first points that are nodes themselves, then those of the pieces.
    n_direct
        How many points are nodes themselves.
    piece
        The piece of each point, shape ``(n_points,)``.
    place
        Where a point lies in its piece, -1 to 1.
    direct
        Rows of the points that are nodes themselves.
    span
        Length of the range of the points.
    known
        What has shown the pieces to be resolved, at their nodes, shape
        ``(n_nodes - n_direct, m, k)``.
    """

    nodes: np.ndarray
    n_direct: int
    piece: np.ndarray
    place: np.ndarray
    direct: np.ndarray
    span: float
    known: np.ndarray

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values at the points, shape ``(n_points, m)``, from those at the nodes."""
        return self.spread_each(values)[0]

    def spread_each(self, *at_nodes: np.ndarray) -> list[np.ndarray]:
        """The same of several quantities at once."""
        coefficients = [self._coefficients(values) for values in at_nodes]
        results = [np.empty((len(self.piece), values.shape[1])) for values in at_nodes]
        for rows, pieces, polynomials in self._blocks():
            for tables, result in zip(coefficients, results, strict=True):
                for j, table in enumerate(tables):
                    total = table[0].take(pieces)
                    for polynomial, row in zip(polynomials, table[1:], strict=True):
                        total += polynomial * row.take(pieces)
                    result[rows, j] = total
        for values, result in zip(at_nodes, results, strict=True):
            result[self.direct] = values[: self.n_direct]
        return results

    def _coefficients(self, values: np.ndarray) -> np.ndarray:
        """Chebyshev coefficients, shape ``(m, PER_PIECE, n_pieces)``, from values at the nodes."""
        at_pieces = values[self.n_direct :].reshape(-1, PER_PIECE, values.shape[1])
        return np.einsum("kn,pnm->mkp", _TO_COEFFICIENTS, at_pieces)

    def gather(self, cotangent: np.ndarray) -> np.ndarray:
        """The transposed map: shape ``(n_nodes, m)`` from ``(n_points, m)``."""
        m = cotangent.shape[1]
        n_pieces = (len(self.nodes) - self.n_direct) // PER_PIECE
        sums = np.zeros((m, PER_PIECE, n_pieces))
        rest = cotangent.copy()
        rest[self.direct] = 0.0
        for rows, pieces, polynomials in self._blocks():
            for j in range(m):
                part = rest[rows, j]
                sums[j, 0] += np.bincount(pieces, part, n_pieces)
                for k, polynomial in enumerate(polynomials, 1):
                    sums[j, k] += np.bincount(pieces, part * polynomial, n_pieces)
        at_pieces = np.einsum("kn,mkp->pnm", _TO_COEFFICIENTS, sums).reshape(-1, m)
        return np.concatenate([cotangent[self.direct], at_pieces])

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray, list[np.ndarray]]]:
        """Some rows at a time, their pieces, and Chebyshev polynomials there but the constant."""
        for start in range(0, len(self.piece), BLOCK):
            rows = slice(start, start + BLOCK)
            t = self.place[rows]
            double, polynomials = 2 * t, [t, 2 * t * t - 1]
            for _ in range(DEGREE - 2):
                polynomials.append(double * polynomials[-1] - polynomials[-2])
            yield rows, self.piece[rows], polynomials


def curve_through(
    x: np.ndarray, function: Callable[[np.ndarray, float], np.ndarray], budget: int
) -> Curve | None:
    """The nodes from which a function is known at points to rounding.

    The pieces follow from the points and the function alone.

    Parameters
    ----------
    x
        Points, shape ``(n_points,)``.
    function
        Takes points ``(n,)`` and the span of all points to all that is to be resolved, shape
        ``(n, m, k)``: m functions, each with k values of one unit.  Each value is measured by
        the largest of those up to it.
    budget
        Most nodes that are wanted.

    Returns
    -------
    Curve or None
        ``None`` where more nodes were needed, or a point is not finite.
    """
    if budget < PER_PIECE * 2**FIRST:
        return None
    start = float(x.min())
    span = float(x.max()) - start
    if not np.isfinite(span) or span == 0.0:
        return None
    cut = _Cut.of(x, start, span)
    found = _resolved(cut, lambda nodes: function(nodes, span), budget)
    return None if found is None else _curve(x, cut, *found)


def _resolved(cut: _Cut, function: Function, budget: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The pieces on which the function is a polynomial to rounding; none if they are too many.

    With the function's values at their nodes.
    """
    ends = np.arange(0, 2**LAST + 1, 2 ** (LAST - FIRST))
    open_ = np.stack([ends[:-1], ends[1:]], axis=1)
    open_ = open_[cut.points_in(open_) > 0]
    before = np.full(len(open_), np.inf)
    closed: list[np.ndarray] = []
    known: list[np.ndarray] = []
    used = 0  # nodes, and points that are nodes
    while len(open_):
        if used + PER_PIECE * len(open_) > budget:
            return None
        nodes = cut.nodes(open_)
        values = function(nodes.ravel())
        values = values.reshape(*nodes.shape, *values.shape[1:])
        tail = _tails(values)
        done = (tail <= RESOLVED) | ((tail <= NOISE) & (tail > before / 16))
        closed.append(open_[done])
        known.append(values[done])
        used += PER_PIECE * int(done.sum())
        open_, before = open_[~done], tail[~done]
        last = (open_[:, 1] - open_[:, 0] == 1) | (cut.points_in(open_) <= PER_PIECE)
        used += int(cut.points_in(open_[last]).sum())
        open_, before = _halves(open_[~last]), np.repeat(before[~last], 2)
        filled = cut.points_in(open_) > 0
        open_, before = open_[filled], before[filled]
    pieces = np.concatenate(closed)
    if used > budget or not len(pieces):
        return None
    return pieces, np.concatenate(known).reshape(-1, *known[0].shape[2:])


def _halves(pieces: np.ndarray) -> np.ndarray:
    middle = pieces.sum(axis=1) // 2
    ends = np.stack([pieces[:, 0], middle, middle, pieces[:, 1]], axis=1)
    return ends.reshape(-1, 2)


def _tails(values: np.ndarray) -> np.ndarray:
    """The size of the first coefficients left out on each piece, as a share of the function's.

    Guessed from the last four, which go down as a geometric sequence where the function is smooth.

    Parameters
    ----------
    values
        At the nodes, shape ``(n_pieces, PER_PIECE, m, k)``.
    """
    size = np.maximum.accumulate(np.abs(values).max(axis=1), axis=-1)
    last = np.abs(np.einsum("kn,pnmi->pkmi", _TO_COEFFICIENTS[-4:], values))
    before, last = last[:, :2].max(axis=1), last[:, 2:].max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(last == 0.0, 0.0, np.minimum(1.0, last / before))
        shares = np.where(last == 0.0, 0.0, last * rate / size)
    return np.where(np.isfinite(shares), shares, np.inf).max(axis=(1, 2))


def _curve(x: np.ndarray, cut: _Cut, pieces: np.ndarray, known: np.ndarray) -> Curve:
    lengths = pieces[:, 1] - pieces[:, 0]
    table = np.full(2**LAST, -1, dtype=np.intp)
    owners = np.repeat(np.arange(len(pieces)), lengths)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    table[pieces[owners, 0] + within] = owners
    piece = table.take(cut.bins)
    direct = np.flatnonzero(piece < 0)
    piece[direct] = 0
    place = (x - cut.middle(pieces).take(piece)) / cut.half(pieces).take(piece)
    place[direct] = 0.0
    nodes = np.concatenate([x[direct], cut.nodes(pieces).ravel()])
    return Curve(nodes, len(direct), piece, place, direct, cut.span, known)
