"""Data of observations as checked arrays: values with gaps, their errors, their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from femnn.observation.observable import entry_names, listed


@dataclass(frozen=True)
class Data:
    """Values at places, in rows for times.

    Attributes
    ----------
    values, std : numpy.ndarray
        Shape ``(n_times, n_columns)``, one row without times; NaN where a value is missing.
    times : numpy.ndarray or None
        Increasing, shape ``(n_times,)``.
    shape : tuple of int
        That of one place's value: ``()`` for a number.
    names : tuple of str
        The places' names; a place has a column for each component.
    """

    values: np.ndarray
    std: np.ndarray
    times: np.ndarray | None
    shape: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """The columns' names."""
        return entry_names(self.names, self.shape)

    @property
    def present(self) -> np.ndarray:
        """Where there are values, shape ``(n_times, n_columns)``."""
        return ~np.isnan(self.values)

    def where(self, row: int, column: int) -> str:
        """Where a value is, in words."""
        at = f"at {self.columns[column]}"
        return at if self.times is None else f"{at}, t = {self.times[row]:g}"

    def only(self, keep: np.ndarray) -> Data:
        """The same with gaps where ``keep``, which broadcasts with the values, is false."""
        return replace(self, values=np.where(keep, self.values, np.nan))

    def held_out(self, which: Any) -> np.ndarray:
        """Where data of places, by their names, or of times are; of the values' shape."""
        if isinstance(which, str):
            which = [which]
        if not isinstance(which, slice) and len(which) and isinstance(next(iter(which)), str):
            unknown = [name for name in which if name not in self.names]
            if unknown:
                raise ValueError(
                    f"split: there is no {listed(unknown)}: the names are {listed(self.names, 20)}."
                )
            columns = np.repeat(np.isin(self.names, list(which)), int(np.prod(self.shape)))
            return np.broadcast_to(columns, self.values.shape)
        return np.broadcast_to(self._among_times(which)[:, None], self.values.shape)

    def _among_times(self, which: Any) -> np.ndarray:
        if self.times is None:
            raise ValueError(
                f"split got {which!r}, but the data have no times: give the names of places."
            )
        if isinstance(which, slice):
            start, stop = (-np.inf if which.start is None else which.start), which.stop
            return (self.times >= start) & (self.times <= (np.inf if stop is None else stop))
        unknown = [t for t in which if t not in self.times]
        if unknown:
            raise ValueError(
                f"split: there are no data at t = {listed(unknown)}: give times of the data, or a "
                "part of the time as slice(start, end)."
            )
        return np.isin(self.times, list(which))

    def arranged(self, flat: np.ndarray) -> np.ndarray:
        """Numbers of the present values in the form that the user gave, NaN elsewhere."""
        table = np.full(self.values.shape, np.nan)
        table[self.present] = flat
        return table.reshape(self.whole)

    def flattened(self, who: str, what: str, given: Any, leading: int = 0) -> np.ndarray:
        """Numbers in the form of the data, where there are values, ``leading`` axes kept."""
        array = _array(what, given, who)
        if array.ndim < leading or array.shape[leading:] != self.whole:
            more = "(n, ...), with ... = " if leading else ""
            raise ValueError(
                f"{who} got {what} of shape {array.shape}: wanted {more}{self.whole}, the data's."
            )
        table = array.reshape(*array.shape[:leading], *self.values.shape)
        return table[..., self.present]

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape in which the user gave the values."""
        leading = () if self.times is None else (len(self.times),)
        return (*leading, len(self.names), *self.shape)


def checked(names: Sequence[str], values: Any, std: Any, times: Any, std_is_optional: bool) -> Data:
    """Data of places with these names.

    Raises
    ------
    ValueError
        If a shape does not fit, there is no value, a value or a time is not finite, times are not
        in order, or a standard deviation is missing or not positive where there is a value.
    """
    n = len(names)
    values = _array("values", values)
    times = None if times is None else _array("times", times)
    leading = 0 if times is None else 1
    _check_shape(values, n, times)
    shape = values.shape[leading + 1 :]
    table = values.reshape(-1 if leading else 1, n * int(np.prod(shape, dtype=int)))
    if std is None and std_is_optional:
        std = 1.0
    full = _std_of(std, values, n, leading).reshape(table.shape)
    data = Data(table, full, times, shape, tuple(names))
    _check_values(data)
    _check_std(data)
    return data


def _array(what: str, given: Any, who: str = "Observations") -> np.ndarray:
    try:
        return np.array(given, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{who} got {what} that are no array of numbers ({error}): wanted numbers, NaN "
            "for what is missing."
        ) from error


def _check_shape(values: np.ndarray, n: int, times: np.ndarray | None) -> None:
    if times is None:
        if values.ndim == 0 or values.shape[0] != n:
            raise ValueError(
                f"Observations got values of shape {values.shape}: wanted ({n},), one for each of "
                f"{n} places of observation, or ({n}, ...) for vectors; rows for times need "
                "times=..."
            )
        return
    if times.ndim != 1 or not len(times):
        raise ValueError(f"Observations got times of shape {times.shape}: wanted (n_times,).")
    bad = np.flatnonzero(~(np.diff(times) > 0)) if np.isfinite(times).all() else [0]
    if len(bad):
        raise ValueError(
            f"Observations: times must be finite and increase, but {times[bad[0]]:g} is followed "
            f"by {times[min(bad[0] + 1, len(times) - 1)]:g}: sort the rows by time, and give each "
            "time one row."
        )
    if values.ndim < 2 or values.shape[:2] != (len(times), n):
        raise ValueError(
            f"Observations got values of shape {values.shape}: wanted ({len(times)}, {n}), a row "
            f"for each time with one value for each of {n} places of observation, or "
            f"({len(times)}, {n}, ...) for vectors."
        )


def _std_of(std: Any, values: np.ndarray, n: int, leading: int) -> np.ndarray:
    """The standard deviations, of the shape of the values."""
    if std is None:
        raise ValueError(
            "Observations got no std: give the standard deviation of the data's errors, a number, "
            "one for each place or one for each value, or a scale that is to be estimated."
        )
    array = _array("std", std)
    if array.shape == (n,) and values.ndim > 1:
        array = array.reshape((1,) * leading + (n,) + (1,) * (values.ndim - leading - 1))
    elif array.shape not in ((), values.shape, values.shape[leading:]):
        raise ValueError(
            f"Observations got std of shape {array.shape}: wanted a number, ({n},) for one at each "
            f"place, or {values.shape} for one of each value."
        )
    return np.broadcast_to(array, values.shape).copy()


def _check_values(data: Data) -> None:
    if not data.present.any():
        raise ValueError("Observations: all values are NaN: there is nothing to compare with.")
    bad = np.argwhere(np.isinf(data.values))
    if len(bad):
        raise ValueError(
            f"Observations: the value {data.where(*bad[0])} is infinite: give NaN where a value is "
            "missing."
        )


def _check_std(data: Data) -> None:
    std = np.where(data.present, data.std, 1.0)
    bad = np.argwhere(~((std > 0) & np.isfinite(std)))
    if len(bad):
        which = [f"{std[tuple(i)]:g} {data.where(*i)}" for i in bad]
        raise ValueError(
            f"Observations: std must be positive and finite where there is a value, but is "
            f"{listed(which, 3)}: an instrument's accuracy, or NaN for the value too."
        )
