"""Where smooth functions of one or two variables are polynomials to rounding.  Needs numpy only.

The line, or the plane, is cut into pieces, and these are cut again in the directions in which a
function is no polynomial to rounding on them, which its Chebyshev coefficients there show.  Pieces
with few points are left out, and those where this does not come to an end, as at a kink.

L. N. Trefethen: Approximation Theory and Approximation Practice (2013), chapters 3, 4 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

# Polynomials of this degree need the fewest nodes for networks of usual steepness at 1e-15.
DEGREE = 9
PER_SIDE = DEGREE + 1
# By the number of variables: the range of the points is cut into 2**FIRST to 2**(FIRST + 1) pieces
# along each at first, these into at most 2**HALVINGS each.
FIRST = {1: 3, 2: 1}
HALVINGS = {1: 8, 2: 6}
# How often a piece is halved before it is looked at again.
MOST_AT_ONCE = {1: 3, 2: 1}
# Where the first piece begins, as a share of its length: not at a number that people use, at which
# laws have steps and kinks and states have their values.
OFFSET = (3 - 5**0.5) / 2
# A shorter range beside the points' size is rounding; numbers of other sizes would over- or
# underflow.
SHORTEST, SIZES = 2.0**-30, (1e-290, 1e290)
# A function is resolved where what its polynomial leaves out is below this share of its size on
# the piece.  Above it but below NOISE, what cutting does not lower is rounding of the function.
RESOLVED = 8 * np.finfo(float).eps
NOISE = 1e-11

_ANGLES = np.pi * (np.arange(PER_SIDE) + 0.5) / PER_SIDE
_NODES = np.cos(_ANGLES)
# Takes values at the nodes to Chebyshev coefficients.
TO_COEFFICIENTS = (2 / PER_SIDE) * np.cos(np.outer(np.arange(PER_SIDE), _ANGLES))
TO_COEFFICIENTS[0] /= 2


@dataclass(frozen=True)
class Cut:
    """The line or the plane cut into pieces, and how many points each has.

    Lengths are powers of two and ends multiples of these, but for an offset, so that pieces are the
    same for all points whose ranges are about as long.  Pieces are given by an array of shape
    ``(n_pieces, d, 2)``: along each of the d variables the numbers of the first of the finest
    pieces and of the one after the last, counted from zero.

    Attributes
    ----------
    width
        Lengths of the finest pieces, shape ``(d,)``.
    first
        The first piece in which points may lie, shape ``(d,)``.
    bins
        The finest piece in which each point lies, a flat index, counted from ``first``.
    counts
        Number of points before each of the finest pieces, along all variables.
    """

    width: np.ndarray
    first: np.ndarray
    bins: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> Cut | None:
        """The pieces for points ``(n_points, d)``; ``None`` where one is not finite or extreme."""
        d, columns = x.shape[1], x.T
        lower, upper = (np.array([f(c) for c in columns]) for f in (np.min, np.max))
        if not np.isfinite(upper - lower).all():
            return None
        size = np.maximum(abs(lower), abs(upper))
        size[size == 0.0] = 1.0
        if size.min() < SIZES[0] or size.max() > SIZES[1]:
            return None
        _, exponent = np.frexp(np.maximum(upper - lower, SHORTEST * size))
        finest = 2 ** HALVINGS[d]
        width = np.ldexp(1.0, exponent - 1 - FIRST[d] - HALVINGS[d])
        offset = OFFSET * finest
        first = np.floor(lower / (width * finest) - OFFSET).astype(np.intp) * finest
        shape = np.floor(upper / width - offset).astype(np.intp) - first
        shape = (shape // finest + 1) * finest
        bins = np.zeros(1, dtype=np.intp)
        for column, w, at, n in zip(columns, width, first, shape, strict=True):
            place = np.floor(column / w - offset).astype(np.intp)
            bins = bins * n + np.clip(place - at, 0, n - 1)
        counts = np.bincount(bins, minlength=int(shape.prod())).reshape(shape)
        for j in range(d):
            counts = counts.cumsum(axis=j)
        return cls(width, first, bins, np.pad(counts, (1, 0)))

    @property
    def n_variables(self) -> int:
        """One or two."""
        return len(self.width)

    @property
    def shape(self) -> tuple[int, ...]:
        """How many of the finest pieces there are along each variable."""
        return tuple(n - 1 for n in self.counts.shape)

    @property
    def span(self) -> np.ndarray:
        """Lengths of the ranges of the points, to a factor of two, shape ``(d,)``."""
        d = self.n_variables
        return self.width * 2.0 ** (HALVINGS[d] + FIRST[d])

    def at_first(self) -> np.ndarray:
        """The pieces to begin with."""
        finest = 2 ** HALVINGS[self.n_variables]
        starts = [
            at + np.arange(0, n, finest) for at, n in zip(self.first, self.shape, strict=True)
        ]
        corners = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1)
        corners = corners.reshape(-1, self.n_variables)
        return np.stack([corners, corners + finest], axis=-1)

    def keys(self, pieces: np.ndarray) -> list[tuple]:
        """Names of pieces, the same in all cuts that have these pieces."""
        width = tuple(self.width.tolist())
        return [(width, *piece) for piece in pieces.reshape(len(pieces), -1).tolist()]

    def points_in(self, pieces: np.ndarray) -> np.ndarray:
        """How many points lie in each piece."""
        ends, total = pieces - self.first[:, None], np.zeros(len(pieces), dtype=np.intp)
        for corner in product((0, 1), repeat=self.n_variables):
            sign = (-1) ** (self.n_variables - sum(corner))
            total += sign * self.counts[tuple(ends[:, j, end] for j, end in enumerate(corner))]
        return total

    def middle(self, pieces: np.ndarray) -> np.ndarray:
        """Where pieces have their middle, shape ``(n_pieces, d)``."""
        offset = OFFSET * 2 ** HALVINGS[self.n_variables]
        return self.width * (pieces.sum(axis=2) / 2 + offset)

    def half(self, pieces: np.ndarray) -> np.ndarray:
        """Half the lengths of pieces, shape ``(n_pieces, d)``."""
        return self.width * (pieces[..., 1] - pieces[..., 0]) / 2

    def nodes(self, pieces: np.ndarray) -> np.ndarray:
        """Chebyshev nodes, shape ``(n_pieces, n_nodes, d)``; the last variable's move first."""
        grids = np.meshgrid(*[_NODES] * self.n_variables, indexing="ij")
        places = np.stack([g.ravel() for g in grids], axis=-1)
        return self.middle(pieces)[:, None] + self.half(pieces)[:, None] * places


class Known:
    """A function at the nodes of pieces, each evaluated once.

    Parameters
    ----------
    function
        Takes points ``(n, d)`` and the lengths of the ranges of all points, to a factor of two,
        shape ``(d,)``, to all that is to be resolved, shape ``(n, m, k)``: m functions, each with k
        values of one unit.  Each value is measured by the largest of those up to it.

    Attributes
    ----------
    size : int
        How many numbers are known.
    asked : list of tuple
        Nodes for which the function was asked, and what it gave.
    last : tuple or None
        Lengths of the finest pieces, and the pieces that have resolved it last.
    """

    def __init__(self, function: Callable[[np.ndarray, np.ndarray], np.ndarray]):
        self._function = function
        self._values: dict[tuple, np.ndarray] = {}
        self._tails: dict[tuple, np.ndarray] = {}
        self._joined: tuple[np.ndarray, np.ndarray] | None = None
        self.asked: list[tuple[np.ndarray, np.ndarray]] = []
        self.size = 0
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def tails(self, cut: Cut, pieces: np.ndarray) -> np.ndarray:
        """What polynomials leave out on each piece, as a share of the function's size there.

        Along each variable: shape ``(n_pieces, d)``.
        """
        keys = cut.keys(pieces)
        new = [i for i, key in enumerate(keys) if key not in self._tails]
        if new:
            nodes = cut.nodes(pieces[new])
            flat = nodes.reshape(-1, cut.n_variables)
            values = self._function(flat, cut.span)
            self.asked.append((flat, values))
            values = values.reshape(*nodes.shape[:2], *values.shape[1:])
            found = [keys[i] for i in new]
            self.size += values.size
            self._values.update(zip(found, values, strict=True))
            self._tails.update(zip(found, _tails(values, cut.n_variables), strict=True))
        return np.array([self._tails[key] for key in keys])

    def values(self, cut: Cut, pieces: np.ndarray) -> np.ndarray:
        """Values at the nodes, shape ``(n_nodes, m, k)``."""
        if self._joined is None or self._joined[0] is not pieces:
            self.tails(cut, pieces)
            values = np.concatenate([self._values[key] for key in cut.keys(pieces)])
            self._joined = (pieces, values)
        return self._joined[1]


def resolved(cut: Cut, known: Sequence[Known], budget: int) -> np.ndarray:
    """The pieces on which functions are polynomials to rounding.

    They follow from the points and the functions alone.

    Parameters
    ----------
    cut
        The pieces that there are.
    known
        The functions, as far as they are known.
    budget
        Most nodes that are wanted, with the points in no piece.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_pieces, d, 2)``; no pieces where more nodes were needed.
    """
    per_piece = PER_SIDE**cut.n_variables
    pieces = _resolved_last(cut, known[-1])
    if pieces is None:
        pieces = cut.at_first()
        pieces = pieces[cut.points_in(pieces) > per_piece]
        for function in known:
            pieces = _refined(cut, pieces, function, budget)
        known[-1].last = (cut.width, pieces)
    n_direct = len(cut.bins) - cut.points_in(pieces).sum()
    return pieces if per_piece * len(pieces) <= budget - n_direct else pieces[:0]


def _resolved_last(cut: Cut, known: Known) -> np.ndarray | None:
    """The pieces of the last time, where each has enough points, and no point is in none.

    Then they would be found again.
    """
    if known.last is None or not np.array_equal(known.last[0], cut.width):
        return None
    pieces = known.last[1]
    ends = pieces - cut.first[:, None]
    if not len(pieces) or ends.min() < 0 or (ends.max(axis=(0, 2)) > cut.shape).any():
        return None
    counts = cut.points_in(pieces)
    enough = counts.min() > PER_SIDE**cut.n_variables
    return pieces if enough and counts.sum() == len(cut.bins) else None


def _refined(cut: Cut, pieces: np.ndarray, known: Known, budget: int) -> np.ndarray:
    """Pieces, cut until a function is a polynomial to rounding on each.

    Those where this comes to no end, or with few points, are left out; all, where there are too
    many.
    """
    d, closed = cut.n_variables, [pieces[:0]]
    before = np.full((len(pieces), d), np.inf)
    while len(pieces):
        if PER_SIDE**d * (len(pieces) + sum(len(c) for c in closed)) > budget:
            return pieces[:0]
        tails = known.tails(cut, pieces)
        smooth = (tails <= RESOLVED) | ((tails <= NOISE) & (tails > before / 16))
        closed.append(pieces[smooth.all(axis=1)])
        last = ((pieces[..., 1] - pieces[..., 0] == 1) & ~smooth).any(axis=1)
        goes_on = ~smooth.all(axis=1) & ~last
        pieces, tails, smooth = pieces[goes_on], tails[goes_on], smooth[goes_on]
        pieces, owners = _cut_up(pieces, np.where(smooth, 1, _parts(tails)))
        filled = cut.points_in(pieces) > PER_SIDE**d
        pieces, before = pieces[filled], tails[owners][filled]
    return np.concatenate(closed)


def _parts(tails: np.ndarray) -> np.ndarray:
    """Into how many parts to cut pieces: a half leaves out a ``2**PER_SIDE``-th of the whole."""
    with np.errstate(over="ignore", divide="ignore"):
        halvings = np.ceil(np.log2(tails / RESOLVED) / PER_SIDE)
    return 2 ** np.clip(halvings, 1, MOST_AT_ONCE[tails.shape[1]]).astype(int)


def _cut_up(pieces: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of pieces, by how many there are along each variable, and of which each is."""
    lengths = pieces[..., 1] - pieces[..., 0]
    parts = np.minimum(parts, lengths)
    counts = parts.prod(axis=1)
    owners = np.repeat(np.arange(len(pieces)), counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    step, first = (lengths // parts)[owners], pieces[owners, :, 0].copy()
    for j in range(parts.shape[1]):
        first[:, j] += number % parts[owners, j] * step[:, j]
        number = number // parts[owners, j]
    return np.stack([first, first + step], axis=-1), owners


def _tails(values: np.ndarray, d: int) -> np.ndarray:
    """The size of the first coefficients left out on each piece, as a share of the function's.

    Guessed from the last four along each variable, which go down as a geometric sequence where the
    function is smooth.

    Parameters
    ----------
    values
        At the nodes, shape ``(n_pieces, n_nodes, m, k)``.
    """
    size = np.maximum.accumulate(np.abs(values).max(axis=1), axis=-1)
    grid = values.reshape(len(values), *[PER_SIDE] * d, *values.shape[2:])
    shares = []
    for j in range(d):
        rows = np.moveaxis(grid, 1 + j, 1).reshape(len(grid), PER_SIDE, -1, *values.shape[2:])
        last = np.abs(np.einsum("kn,pnami->pkami", TO_COEFFICIENTS[-4:], rows)).max(axis=2)
        before, last = last[:, :2].max(axis=1), last[:, 2:].max(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = np.where(last == 0.0, 0.0, np.minimum(1.0, last / before))
            share = np.where(last == 0.0, 0.0, last * rate / size)
        shares.append(np.where(np.isfinite(share), share, np.inf).max(axis=(1, 2)))
    return np.stack(shares, axis=-1)
