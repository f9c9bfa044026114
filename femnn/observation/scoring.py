"""Tables of scores, by place and in all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from femnn.observation import scores
from femnn.observation.data import Data

ALL = "all"


@dataclass(frozen=True)
class Prediction:
    """What a model says of data, and how sure it is.

    Attributes
    ----------
    samples : numpy.ndarray
        Of the model's values where there are data, shape ``(n_samples, n)``.
    std : numpy.ndarray
        Standard deviation of a datum around each sample, shape ``(n,)``.
    """

    samples: np.ndarray
    std: np.ndarray


class Scores:
    """Scores of a model by column of the data, for columns that have data, and in all.

    Parameters
    ----------
    data
        The data.
    model
        The model's values where there are data, shape ``(n,)``.
    """

    def __init__(self, data: Data, model: np.ndarray):
        self._model, self._values = model, data.values[data.present]
        self._in_time = data.times is not None
        columns = np.nonzero(data.present)[1]
        groups = [np.flatnonzero(columns == i) for i in range(data.values.shape[1])]
        named = [(name, g) for name, g in zip(data.columns, groups, strict=True) if len(g)]
        self.rows = [*(name for name, _ in named), ALL]
        self._groups = [group for _, group in named]

    def plain(self) -> dict[str, list]:
        """Scores of the values alone, name to one for each row."""
        model, values = self._model, self._values
        pairs = [(model[group], values[group]) for group in self._groups]
        nse, kge = scores.nse(model, values, self._means()), np.nan
        if not self._in_time:
            kge = scores.kge(model, values)
        return {
            "n": [*map(len, self._groups), len(values)],
            "rmse": [scores.rmse(*pair) for pair in (*pairs, (model, values))],
            "bias": [scores.bias(*pair) for pair in (*pairs, (model, values))],
            "nse": [*(scores.nse(*pair) for pair in pairs), nse],
            "kge": [*(scores.kge(*pair) for pair in pairs), kge],
        }

    def of_prediction(self, predicted: Prediction, level: float) -> dict[str, list]:
        """Scores of how sure the model is, name to one for each row."""
        given = predicted.samples, predicted.std, self._values
        return {
            "crps": self._averages(scores.crps(*given)),
            f"coverage of {level:.0%}": self._averages(scores.coverage(*given, level)),
        }

    def _averages(self, each: np.ndarray) -> list[float]:
        return [*(float(each[group].mean()) for group in self._groups), float(each.mean())]

    def _means(self) -> np.ndarray:
        """What the spread of all data is about: each place's mean, where it has many."""
        means = np.full(len(self._values), self._values.mean())
        for group in self._groups if self._in_time else ():
            means[group] = self._values[group].mean()
        return means
