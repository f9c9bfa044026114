"""Where a law has been used: the range that data could teach, and what leaves it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.parallel import Pieces, range_over_ranks, sum_over_ranks

CELLS_OF_ONE, CELLS = 50, 20  # in the visited range of each input, of one and of several
ROUNDING = 1e-9  # of the range, beyond its ends


class Visited:
    """The operands' values at which a law has been evaluated.  Collective.

    A network is a guess where no data have led it.  The set is kept as cells of a grid, so that it
    may have holes, and of several inputs may be a small part of all combinations: a box of their
    ranges would count combinations that never were.

    Parameters
    ----------
    *laws
        Coefficients of one network, or of several with the same operands, at whose points the
        operands' present values count.  In a time loop call :meth:`add` after each step.

    Attributes
    ----------
    range : numpy.ndarray
        Smallest and largest value of each input, shape ``(n_inputs, 2)``.

    Raises
    ------
    TypeError
        If they are no coefficients.
    ValueError
        If they have different numbers of inputs, or an operand is NaN or infinite.

    Examples
    --------
    >>> seen = Visited(kappa)
    >>> seen.contains(0.7)
    >>> solver.solve()  # another load
    >>> seen.outside(kappa)
    0.12
    """

    def __init__(self, *laws: NeuralCoefficient):
        n = _inputs_of("Visited", laws)
        self._laws, self._n, self._comm = laws, n, laws[0].mesh.comm
        self._bins = CELLS_OF_ONE if n == 1 else CELLS
        self.range = np.stack([np.full(n, np.inf), np.full(n, -np.inf)], axis=1)
        self._width = np.zeros(n)
        self._cells = np.empty((0, n), dtype=np.int64)
        self.add()

    @property
    def comm(self) -> Any:
        """The ranks that call together."""
        return self._comm

    def add(self) -> Visited:
        """Count the operands' present values, too.  Collective.

        Returns
        -------
        Visited
            Itself.

        Raises
        ------
        ValueError
            If an operand is NaN or infinite.
        """
        for law in self._laws:
            rows = law.map.load()
            found = range_over_ranks(law.mesh.comm, rows)
            if not np.isfinite(found).all():
                raise ValueError(
                    f"Visited: an operand of {law.name()} is NaN or infinite, or it has no points: "
                    "solve the model first."
                )
            self._widen(found)
            self._take(rows)
        return self

    def contains(self, *inputs: ArrayLike) -> np.ndarray:
        """Whether values of the inputs are among those that the law has seen.

        Those in a cell next to one that was visited count, but none outside :attr:`range`.

        Parameters
        ----------
        *inputs
            One array for each input, of shapes that broadcast; rank-local.

        Returns
        -------
        numpy.ndarray
            bool, of the shape to which they broadcast.

        Raises
        ------
        ValueError
            If there are not as many arrays as inputs.
        """
        if len(inputs) != self._n:
            raise ValueError(f"contains got {len(inputs)} inputs, the law has {self._n}.")
        arrays = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in inputs))
        rows = np.stack([a.ravel() for a in arrays], axis=1)
        return self._contain(rows).reshape(arrays[0].shape)

    def outside(self, *laws: NeuralCoefficient) -> float:
        """Which part of the points of a prediction leaves what was visited.  Collective.

        Parameters
        ----------
        *laws
            Coefficients of the prediction, at their operands' present values.

        Returns
        -------
        float
            From 0 to 1, the same on every rank.

        Raises
        ------
        TypeError
            If they are no coefficients.
        ValueError
            If they have another number of inputs.
        """
        if _inputs_of("outside", laws) != self._n:
            raise ValueError(
                f"outside got a law of {_inputs_of('outside', laws)} inputs, wanted {self._n}."
            )
        counts = np.zeros(2)
        for law in laws:
            rows = law.map.load()
            own = np.array([(~self._contain(rows)).sum(), len(rows)], dtype=float)
            counts += sum_over_ranks(law.mesh.comm, own)
        return float(counts[0] / max(counts[1], 1.0))

    def _widen(self, found: np.ndarray) -> None:
        """Let cells be larger where the range has become so, by doubling them."""
        lower = np.minimum(self.range[:, 0], found[:, 0])
        upper = np.maximum(self.range[:, 1], found[:, 1])
        self.range = np.stack([lower, upper], axis=1)
        length = upper - lower
        tiny = ROUNDING * np.maximum(np.abs(self.range).max(1), np.finfo(float).tiny)
        if not len(self._cells):
            self._width = np.maximum(length / self._bins, tiny)
            return
        doublings = np.ceil(np.log2(np.maximum(length / self._bins / self._width, 1.0)))
        self._width *= 2**doublings
        self._cells = np.unique(self._cells // (2**doublings).astype(np.int64), axis=0)

    def _take(self, rows: np.ndarray) -> None:
        own = np.unique(self._cells_of(rows), axis=0)
        every = Pieces(self._comm, own.size).gather(own.ravel()).reshape(-1, self._n)
        self._cells = np.unique(np.concatenate([self._cells, every]), axis=0)

    def _cells_of(self, rows: np.ndarray) -> np.ndarray:
        return np.floor(rows / self._width).astype(np.int64).reshape(-1, self._n)

    def _contain(self, rows: np.ndarray) -> np.ndarray:
        margin = ROUNDING * (self.range[:, 1] - self.range[:, 0])
        lower, upper = self.range[:, 0] - margin, self.range[:, 1] + margin
        within = ((rows >= lower) & (rows <= upper)).all(1)
        result = np.zeros(len(rows), dtype=bool)
        if within.any():
            near = cKDTree(self._cells).query(self._cells_of(rows[within]), p=np.inf)[0]
            result[within] = near <= 1
        return result


def _inputs_of(who: str, laws: tuple[Any, ...]) -> int:
    """The number of inputs that the laws have in common."""
    wrong = [law for law in laws if not isinstance(law, NeuralCoefficient)]
    if wrong or not laws:
        got = f"a {type(wrong[0]).__name__}" if wrong else "nothing"
        raise TypeError(f"{who} got {got}: wanted NeuralCoefficients, as in {who}(kappa).")
    numbers = {law.evaluator.n_inputs for law in laws}
    if len(numbers) > 1:
        raise ValueError(f"{who} got laws of {sorted(numbers)} inputs: wanted the same for all.")
    return numbers.pop()
