"""A model that is being observed: its values at the data's places and times, and the misfit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyadjoint import AdjFloat
from torch import Tensor, nn

from femnn.autograd.apply import apply
from femnn.observation.comparison import Comparison
from femnn.tape.vector import Vector

# Times that differ by less than this part of a step are the same: sums of steps have rounding.
SAME_TIME = 1e-6


class Observed:
    """A model's values at the data's places and times, as they come.

    ``Observations.start()`` makes it.  Call it with the model's state, in a time loop for the
    initial state and after each step, and take :meth:`misfit` at the end.

    Parameters
    ----------
    comparison
        What they are compared with.

    Attributes
    ----------
    residuals : Vector or None
        The weighted residuals of the last misfit, (model - data) / error, in the order of the
        data's rows without gaps.
    """

    def __init__(self, comparison: Comparison):
        self._with = comparison
        self._parts: list[Vector] = []
        self._n_done = 0
        self._last: tuple[float, Vector] | None = None
        self.residuals: Vector | None = None

    def __call__(self, u: Any, t: Any = None) -> None:
        """Take the model's state; recorded.  Collective.

        Between two states the model's values at the places are interpolated linearly to the
        times of data.

        Parameters
        ----------
        u
            What the places of observation take: for stations a Function or an expression.
        t
            The state's time, in the unit of the data's times.

        Raises
        ------
        ValueError
            If the model's values have another shape than the data, a time is missing or not later
            than the last, or there are data before the first.
        """
        times = self._with.data.times
        self._check_time(t)
        if times is None:
            self._parts = [self._chosen(self._values(u), slice(None))]
            self._n_done = self._with.n_values
            return
        t = float(t)
        if self._last is not None and self._n_done == self._with.n_values:
            self._last = (t, self._last[1])
            return
        values = self._values(u)
        known = times[self._with.rows]
        tolerance = SAME_TIME * (t - self._last[0] if self._last else _first_step(times))
        upto = int(np.searchsorted(known, t + tolerance, side="right"))
        if self._last is None and upto and known[0] < t - tolerance:
            raise ValueError(
                f"observe got t={t:g} first, but there are data at t={known[0]:g}: call it for the "
                f"initial state, or leave out what is before: observations.between({t:g}, ...)."
            )
        if upto > self._n_done:
            self._parts.append(self._at_times(known, slice(self._n_done, upto), t, values))
            self._n_done = upto
        self._last = (t, values)

    @property
    def model(self) -> np.ndarray:
        """The model's values at the data's places and times, of the shape of the data.

        NaN where there are no data or the model has not come to yet; the same on every rank.
        """
        flat = np.full(self._with.n_values, np.nan)
        parts = [part.vector for part in self._parts]
        flat[: self._n_done] = np.concatenate(parts) if parts else []
        return self._with.data.arranged(flat)

    def misfit(self) -> AdjFloat:
        """Half the sum of squared weighted residuals; recorded.  Collective.

        With a loss the sum of the residuals' losses; where errors are estimated, minus the
        logarithm of the likelihood, up to a constant.

        Returns
        -------
        AdjFloat
            The same on every rank, and on any number of them.

        Raises
        ------
        RuntimeError
            If the model was not observed at the times of all data.
        ValueError
            If a standard deviation that is estimated is not positive.

        Warns
        -----
        UserWarning
            If the first misfit is so large that units may be wrong.
        """
        self._check_complete()
        self.residuals = self._with.residuals(self._parts)
        return self._with.misfit(self._parts, self.residuals)

    def _values(self, u: Any) -> Vector:
        values = self._with.at(u)
        data = self._with.data
        wanted = (len(data.names), *data.shape)
        if values.shape != wanted:
            raise ValueError(
                f"observe: the model gives values of shape {values.shape}, the data are for "
                f"{wanted}: give an expression of shape {data.shape}, or data of shape "
                f"{values.shape} at each time."
            )
        return values

    def _at_times(self, known: np.ndarray, which: slice, t: float, values: Vector) -> Vector:
        """The model's values for some of the data, between the last state and this."""
        if self._last is None:
            return self._chosen(values, which)
        before, last = self._last
        weights = (known[which] - before) / (t - before)
        weights[weights > 1 - SAME_TIME] = 1.0
        if (weights == 1.0).all():
            return self._chosen(values, which)
        columns = torch.tensor(self._with.columns[which])
        return self._apply(_Between(columns, torch.tensor(weights)), len(columns), last, values)

    def _chosen(self, values: Vector, which: slice) -> Vector:
        columns = torch.tensor(self._with.columns[which])
        return self._apply(_Chosen(columns), len(columns), values)

    def _apply(self, net: nn.Module, n: int, *values: Vector) -> Vector:
        into = Vector(np.zeros(n), self._with.at.comm, "model at data")
        return apply(net, *values, into=into)

    def _check_time(self, t: Any) -> None:
        if self._with.data.times is None:
            if t is not None:
                raise ValueError(
                    f"observe got t={float(t):g}, but the data have no times: leave it out, or "
                    "give the data's times."
                )
            if self._parts:
                raise ValueError(
                    "observe was called before, and the data have no times: begin another "
                    "comparison with observations.start()."
                )
            return
        if t is None:
            raise ValueError("observe got no time, but the data have times: observe(u, t).")
        if self._last is not None and not float(t) > self._last[0]:
            raise ValueError(
                f"observe got t={float(t):g} after t={self._last[0]:g}: times must increase; begin "
                "another run with observations.start()."
            )

    def _check_complete(self) -> None:
        missing = self._with.n_values - self._n_done
        if not missing:
            return
        if self._last is None:
            raise RuntimeError("misfit: the model was not observed: call observe(u) first.")
        times = self._with.data.times
        assert times is not None
        raise RuntimeError(
            f"misfit: the model was observed until t={self._last[0]:g}, but {missing} of "
            f"{self._with.n_values} values are later, until t={times[self._with.rows[-1]]:g}: run "
            f"it until then, or leave them out: observations.between(..., {self._last[0]:g})."
        )


def _first_step(times: np.ndarray) -> float:
    """A length of time for rounding, where there was no step yet."""
    return float(np.diff(times).min()) if len(times) > 1 else max(1.0, abs(float(times[0])))


class _Chosen(nn.Module):
    """Some of the numbers that a model gives."""

    def __init__(self, columns: Tensor):
        super().__init__()
        self._columns = columns

    def forward(self, values: Tensor) -> Tensor:
        return values.reshape(-1)[self._columns]


class _Between(nn.Module):
    """The same between two states of the model."""

    def __init__(self, columns: Tensor, weights: Tensor):
        super().__init__()
        self._columns, self._weights = columns, weights

    def forward(self, before: Tensor, values: Tensor) -> Tensor:
        first, second = (state.reshape(-1)[self._columns] for state in (before, values))
        return (1 - self._weights) * first + self._weights * second
