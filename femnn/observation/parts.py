"""Data of which parts can be taken: the rest become gaps."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np

from femnn.observation.comparison import Comparison
from femnn.observation.data import Data
from femnn.observation.errors import Errors
from femnn.observation.observable import Observable
from femnn.tape.losses import Loss


class Parted:
    """Data with what they are compared with.

    Parameters
    ----------
    at
        What is observed.
    data
        The data.
    loss
        What a weighted residual costs.
    errors
        The keywords of :class:`Errors` that say how large the errors are.
    """

    def __init__(self, at: Observable, data: Data, loss: Loss | None, errors: dict[str, Any]):
        self.at, self._loss, self._errors = at, loss, errors
        self._set(data)

    def _set(self, data: Data) -> None:
        self._data = data
        self.names, self.times = data.names, data.times
        rows, columns = np.nonzero(data.present)
        times = None if data.times is None else data.times[rows]
        flat = data.values[data.present], data.std[data.present]
        errors = Errors(*flat, times, columns, data.values.shape[1], **self._errors)
        self._comparison = Comparison(self.at, data, errors, self._loss)

    @property
    def values(self) -> np.ndarray:
        """The data, of the shape ``(n, ...)`` or ``(n_times, n, ...)``; NaN in gaps."""
        return self._data.arranged(self._data.values[self._data.present])

    @property
    def std(self) -> np.ndarray:
        """The standard deviations, of the shape ``(n, ...)`` or ``(n_times, n, ...)``."""
        return self._data.arranged(self._data.std[self._data.present])

    def __len__(self) -> int:
        """The number of values that are no gaps."""
        return self._comparison.n_values

    def between(self, start: float = -np.inf, end: float = np.inf) -> Self:
        """The same with gaps before and after a part of the time.

        Parameters
        ----------
        start, end
            The first and the last time that count.

        Returns
        -------
        Observations
            New ones of the same places and times.

        Raises
        ------
        ValueError
            If there are no times, or no values in this part.
        """
        if self.times is None:
            raise ValueError("between: the data have no times.")
        kept = (self.times >= start) & (self.times <= end)
        return self._only(kept[:, None], f"no values between {start:g} and {end:g}")

    def split(self, held_out: str | slice | Sequence[str] | Sequence[float]) -> tuple[Self, Self]:
        """Data to learn from, and data that are held out to test what was learned.

        Parameters
        ----------
        held_out
            Names of places, times of data, or a part of the time as ``slice(start, end)``, both
            ends included.

        Returns
        -------
        kept, held_out : Observations
            Of the same places and times, each with gaps where the other has values.

        Raises
        ------
        ValueError
            If a name or a time is not one of the data, or one of the two would be empty.

        Examples
        --------
        >>> seen, unseen = data.split(["north", "south"])
        >>> J = seen.misfit(u)
        >>> print(unseen.scores(unseen.at(u)))
        """
        held = self._data.held_out(held_out)
        return self._only(~held, "no values left"), self._only(held, "no values to hold out")

    def _only(self, keep: np.ndarray, empty: str) -> Self:
        """The same with gaps elsewhere; an error where nothing is left."""
        data = self._data.only(keep)
        if not data.present.any():
            raise ValueError(f"Observations: there are {empty}.")
        part = copy(self)
        part._set(data)
        return part
