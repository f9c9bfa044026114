"""What a model's values are compared with: residuals, misfit and scores."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from pyadjoint import AdjFloat

from femnn.autograd.apply import apply
from femnn.autograd.values import array_of
from femnn.observation.data import Data
from femnn.observation.errors import Errors, Logarithms, Residuals
from femnn.observation.observable import Observable
from femnn.observation.scoring import Prediction, Scores
from femnn.tape.losses import Loss
from femnn.tape.squares import Density, sum_of_logarithms, sum_of_squares
from femnn.tape.vector import Vector

# A weighted misfit of this size says that something else than the model's law is wrong.
SUSPICIOUS = 1e3


class Comparison:
    """What a model's values are compared with.

    Parameters
    ----------
    at
        What is observed.
    data
        The data.
    errors
        Their errors.
    loss
        What a weighted residual costs; half its square where it is ``None``.
    """

    def __init__(self, at: Observable, data: Data, errors: Errors, loss: Loss | None):
        self.at, self.data, self.errors, self.loss = at, data, errors, loss
        self.rows, self.columns = np.nonzero(data.present)
        self._is_checked = False

    @property
    def n_values(self) -> int:
        """The number of values that are no gaps."""
        return len(self.rows)

    def where(self, i: int) -> str:
        """Where the i-th value is, in words."""
        return self.data.where(self.rows[i], self.columns[i])

    def residuals(self, parts: list[Vector]) -> Vector:
        """Weighted residuals of the model's values, recorded."""
        model = np.concatenate([part.vector for part in parts])
        self.errors.present_std(model, self.where)
        result = self._apply(Residuals, parts, "weighted residuals")
        self._check_size(model, result.vector)
        return result

    def misfit(self, parts: list[Vector], residuals: Vector) -> AdjFloat:
        """Minus the log likelihood, up to a constant; recorded."""
        value = sum_of_squares(residuals, self.loss, self._density(parts))
        if self.errors.are_estimated:
            value = value + sum_of_logarithms(self._apply(Logarithms, parts, "log errors"))
        return value

    def _density(self, parts: list[Vector]) -> Density:
        """What the likelihood has beside the squares; logarithms where these are not recorded."""
        model = torch.as_tensor(np.concatenate([part.vector for part in parts]))
        constant = 0.5 * self.n_values * np.log(2 * np.pi)
        if not self.errors.are_estimated:
            constant += float(self.errors.logarithms(model, ()).sum())
        n_entries = int(np.prod(self.data.shape, dtype=int))
        places = tuple(self.data.names[column // n_entries] for column in self.columns)
        return Density(self.errors.common_scale, constant, places)

    def _apply(self, kind: type[Residuals], parts: list[Vector], name: str) -> Vector:
        into = Vector(np.zeros(self.n_values), self.at.comm, name)
        net = kind(self.errors, len(parts))
        return apply(net, *parts, *self.errors.parameters, into=into)

    def scores(self, model: Any, std: Any, samples: Any, level: float) -> tuple[list, dict]:
        """Rows and columns of the table of scores; see ``Observations.scores``."""
        data, who = self.data, "scores"
        values = self._flat(who, model)
        found = Scores(data, values)
        columns = found.plain()
        if std is not None or samples is not None:
            errors = self.errors.present_std(values, self.where)
            if samples is not None:
                drawn = data.flattened(who, "samples", samples, 1)
            else:
                drawn = values[None]
                errors = np.hypot(errors, self._broadcast(std))
            columns |= found.of_prediction(Prediction(drawn, errors), level)
        return found.rows, columns

    def present_residuals(self, model: Any) -> np.ndarray:
        """Weighted residuals at the present errors; see ``Observations.residuals``."""
        values = self._flat("residuals", model)
        self.errors.present_std(values, self.where)
        present = [torch.as_tensor(array_of(p)) for p in self.errors.parameters]
        with torch.no_grad():
            residuals = self.errors.residuals(torch.as_tensor(values), present)
        return self.data.arranged(residuals.numpy())

    def _flat(self, who: str, model: Any) -> np.ndarray:
        """The model's values where there are data, shape ``(n_values,)``."""
        values = self.data.flattened(who, "model values", model)
        missing = np.flatnonzero(np.isnan(values))
        if len(missing):
            raise ValueError(
                f"{who}: the model's value is NaN {self.where(missing[0])}, where there is a "
                "datum: observe the run until the end first."
            )
        return values

    def _broadcast(self, std: Any) -> np.ndarray:
        whole = np.broadcast_to(np.asarray(std, dtype=float), self.data.whole)
        return self.data.flattened("scores", "std", whole)

    def _check_size(self, model: np.ndarray, residuals: np.ndarray) -> None:
        """Warn once where the model's values are far from the data."""
        if self._is_checked:
            return
        self._is_checked = True
        rms = float(np.sqrt(np.mean(residuals**2)))
        if rms > SUSPICIOUS:
            data = self.data.values[self.rows, self.columns]
            warnings.warn(
                f"Observations: the first misfit's root mean square is {rms:.3g} standard "
                f"deviations: the data go from {data.min():g} to {data.max():g}, the model's "
                f"values from {model.min():g} to {model.max():g}. Look whether both have the same "
                "unit, and whether std is in it.",
                stacklevel=5,
            )
