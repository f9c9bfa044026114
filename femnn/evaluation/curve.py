"""A smooth function of one variable at many points, from few nodes.  Needs numpy only.

The line is cut into pieces, and these are halved until the function is a polynomial to rounding on
each, which its Chebyshev coefficients there show; pieces without points are left out.  Where that
does not come to an end, as at a kink, the points themselves are nodes.  So every quantity at the
points is one linear map of the same quantity at the nodes.

L. N. Trefethen: Approximation Theory and Approximation Practice (2013), chapters 3, 4 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Polynomials of this degree need the fewest nodes for networks of usual steepness at 1e-15.
DEGREE = 9
PER_PIECE = DEGREE + 1
# The range of the points is cut into 2**FIRST to 2**(FIRST + 1) pieces at first, these into at most
# 2**HALVINGS each.
FIRST, HALVINGS = 3, 8
FINEST = 2**HALVINGS
# How often a piece is halved before it is looked at again.
MOST_AT_ONCE = 3
# A shorter range beside the points' size is rounding.
SHORTEST = 2.0**-30
# A function is resolved where what its polynomial leaves out is below this share of its size on
# the piece.  Above it but below NOISE, what cutting does not lower is rounding of the function.
RESOLVED = 8 * np.finfo(float).eps
NOISE = 1e-11
# Points that are interpolated together, so that intermediate results stay in cache.
BLOCK = 8192

_ANGLES = np.pi * (np.arange(PER_PIECE) + 0.5) / PER_PIECE
_NODES = np.cos(_ANGLES)
# Takes values at the nodes to Chebyshev coefficients.
_TO_COEFFICIENTS = (2 / PER_PIECE) * np.cos(np.outer(np.arange(PER_PIECE), _ANGLES))
_TO_COEFFICIENTS[0] /= 2


@dataclass(frozen=True)
class Cut:
    """The line cut into pieces, and how many points each has.

    Lengths are powers of two and ends multiples of these, so that pieces are the same for all
    points whose ranges are about as long.  A piece is given by the numbers of its first of the
    finest pieces and of the one after its last, counted from zero.

    Attributes
    ----------
    width
        Length of the finest pieces.
    first
        The first piece in which points may lie.
    bins
        The finest piece in which each point lies, counted from ``first``.
    counts
        Number of points before each of the finest pieces, from ``first`` on.
    """

    width: float
    first: int
    bins: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> Cut | None:
        """The pieces for points ``(n_points,)``; ``None`` where one is not finite."""
        lower, upper = float(x.min()), float(x.max())
        if not np.isfinite(upper - lower):
            return None
        size = max(abs(lower), abs(upper)) or 1.0
        _, exponent = np.frexp(max(upper - lower, SHORTEST * size))
        width = float(np.ldexp(1.0, exponent - 1 - FIRST - HALVINGS))
        first = int(lower // (width * FINEST)) * FINEST
        bins = np.floor(x / width).astype(np.intp) - first
        n_pieces = int(bins.max()) // FINEST + 1
        counts = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=n_pieces * FINEST))])
        return cls(width, first, bins, counts)

    @property
    def span(self) -> float:
        """Length of the range of the points, to a factor of two."""
        return self.width * FINEST * 2**FIRST

    def at_first(self) -> np.ndarray:
        """The pieces to begin with, shape ``(n_pieces, 2)``."""
        ends = self.first + np.arange(0, len(self.counts), FINEST)
        return np.stack([ends[:-1], ends[1:]], axis=1)

    def keys(self, pieces: np.ndarray) -> list[tuple]:
        """Names of pieces, the same in all cuts that have these pieces."""
        return [(self.width, first, last) for first, last in pieces.tolist()]

    def points_in(self, pieces: np.ndarray) -> np.ndarray:
        """How many points lie in each piece."""
        return self.counts[pieces[:, 1] - self.first] - self.counts[pieces[:, 0] - self.first]

    def middle(self, pieces: np.ndarray) -> np.ndarray:
        """Where pieces have their middle."""
        return self.width * pieces.sum(axis=1) / 2

    def half(self, pieces: np.ndarray) -> np.ndarray:
        """Half the lengths of pieces."""
        return self.width * (pieces[:, 1] - pieces[:, 0]) / 2

    def nodes(self, pieces: np.ndarray) -> np.ndarray:
        """Chebyshev nodes, shape ``(n_pieces, PER_PIECE)``."""
        return self.middle(pieces)[:, None] + self.half(pieces)[:, None] * _NODES


class Known:
    """A function at the nodes of pieces, each evaluated once.

    Parameters
    ----------
    function
        Takes points ``(n,)`` and the length of the range of all points, to a factor of two, to
        all that is to be resolved, shape ``(n, m, k)``: m functions, each with k values of one
        unit.  Each value is measured by the largest of those up to it.
    """

    def __init__(self, function: Callable[[np.ndarray, float], np.ndarray]):
        self._function = function
        self._values: dict[tuple, np.ndarray] = {}
        self._tails: dict[tuple, float] = {}

    def __len__(self) -> int:
        return len(self._values)

    def tails(self, cut: Cut, pieces: np.ndarray) -> np.ndarray:
        """What polynomials leave out on each piece, as a share of the function's size there."""
        keys = cut.keys(pieces)
        new = [i for i, key in enumerate(keys) if key not in self._tails]
        if new:
            nodes = cut.nodes(pieces[new])
            values = self._function(nodes.ravel(), cut.span)
            values = values.reshape(*nodes.shape, *values.shape[1:])
            found = [keys[i] for i in new]
            self._values.update(zip(found, values, strict=True))
            self._tails.update(zip(found, _tails(values).tolist(), strict=True))
        return np.array([self._tails[key] for key in keys])

    def values(self, cut: Cut, pieces: np.ndarray) -> np.ndarray:
        """Values at the nodes, shape ``(n_nodes, m, k)``."""
        self.tails(cut, pieces)
        return np.concatenate([self._values[key] for key in cut.keys(pieces)])


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
        Length of the range of the points, to a factor of two.
    known
        The first of the functions that the pieces resolve, at their nodes, shape
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


def curve_through(x: np.ndarray, known: Sequence[Known], budget: int) -> Curve | None:
    """The nodes from which functions are known at points to rounding.

    The pieces follow from the points and the functions alone.

    Parameters
    ----------
    x
        Points, shape ``(n_points,)``.
    known
        The functions, as far as they are known.
    budget
        Most nodes that are wanted.

    Returns
    -------
    Curve or None
        ``None`` where more nodes were needed, or a point is not finite.
    """
    cut = Cut.of(x)
    found = None if cut is None else _resolved(cut, known, budget)
    return None if cut is None or found is None else _curve(x, cut, *found)


def _resolved(
    cut: Cut, known: Sequence[Known], budget: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The pieces on which functions are polynomials to rounding; none if they are too many.

    With the first function's values at their nodes.
    """
    pieces = cut.at_first()
    pieces = pieces[cut.points_in(pieces) > 0]
    for function in known:
        pieces = _refined(cut, pieces, function, budget)
    n_direct = len(cut.bins) - cut.points_in(pieces).sum()
    if not 0 < PER_PIECE * len(pieces) <= budget - n_direct:
        return None
    return pieces, known[0].values(cut, pieces)


def _refined(cut: Cut, pieces: np.ndarray, known: Known, budget: int) -> np.ndarray:
    """Pieces, cut until a function is a polynomial to rounding on each.

    Those where this comes to no end are left out; all, where there are too many.
    """
    closed = [pieces[:0]]
    before = np.full(len(pieces), np.inf)
    while len(pieces):
        if PER_PIECE * (len(pieces) + sum(len(c) for c in closed)) > budget:
            return pieces[:0]
        tail = known.tails(cut, pieces)
        done = (tail <= RESOLVED) | ((tail <= NOISE) & (tail > before / 16))
        closed.append(pieces[done])
        last = (pieces[:, 1] - pieces[:, 0] == 1) | (cut.points_in(pieces) <= PER_PIECE)
        goes_on = ~done & ~last
        pieces, owners = _cut_up(pieces[goes_on], _parts(tail[goes_on]))
        filled = cut.points_in(pieces) > 0
        pieces, before = pieces[filled], tail[goes_on][owners][filled]
    return np.concatenate(closed)


def _parts(tails: np.ndarray) -> np.ndarray:
    """Into how many parts to cut pieces: a half leaves out a ``2**PER_PIECE``-th of the whole."""
    with np.errstate(over="ignore"):
        halvings = np.ceil(np.log2(tails / RESOLVED) / PER_PIECE)
    return 2 ** np.clip(halvings, 1, MOST_AT_ONCE).astype(int)


def _cut_up(pieces: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of pieces, and of which piece each is."""
    lengths = pieces[:, 1] - pieces[:, 0]
    parts = np.minimum(parts, lengths)
    owners = np.repeat(np.arange(len(pieces)), parts)
    step = (lengths // parts)[owners]
    first = pieces[owners, 0] + _within(parts) * step
    return np.stack([first, first + step], axis=1), owners


def _within(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... up to each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


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


def _curve(x: np.ndarray, cut: Cut, pieces: np.ndarray, known: np.ndarray) -> Curve:
    lengths = pieces[:, 1] - pieces[:, 0]
    table = np.full(len(cut.counts) - 1, -1, dtype=np.intp)
    owners = np.repeat(np.arange(len(pieces)), lengths)
    table[pieces[owners, 0] - cut.first + _within(lengths)] = owners
    piece = table.take(cut.bins)
    direct = np.flatnonzero(piece < 0)
    piece[direct] = 0
    place = (x - cut.middle(pieces).take(piece)) / cut.half(pieces).take(piece)
    place[direct] = 0.0
    nodes = np.concatenate([x[direct], cut.nodes(pieces).ravel()])
    return Curve(nodes, len(direct), piece, place, direct, cut.span, known)
