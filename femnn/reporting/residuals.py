"""What is left over of data: by place, in time and in space.  Needs numpy and SciPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

LAGS = 20
SURE = 3.0  # standard deviations from which a correlation is one
AT_LEAST = 8  # pairs of residuals that say anything


@dataclass(frozen=True)
class Correlation:
    """How much neighbouring residuals have in common.

    Attributes
    ----------
    value
        From -1 to 1: the mean product of neighbours, in units of their root mean squares.
    pairs
        Of how many neighbours.
    """

    value: float
    pairs: int

    @property
    def is_there(self) -> bool:
        """Whether it is larger than that of independent residuals may be."""
        return self.pairs >= AT_LEAST and self.value > SURE / float(np.sqrt(self.pairs))

    @property
    def widening(self) -> float:
        """By how much bands that assume independence are too narrow.

        That of a mean of numbers whose correlations fall geometrically.
        """
        r = float(np.clip(self.value, 0.0, 0.99))
        return float(np.sqrt((1 + r) / (1 - r)))


def in_time(residuals: np.ndarray, lags: int = LAGS) -> list[Correlation]:
    """Autocorrelations over lags of 1, 2, ... readings, of all places together.

    A mean that is not zero counts as correlation: it is an error that many data have in common.

    Parameters
    ----------
    residuals
        Weighted residuals, shape ``(n_times, n_columns)``; NaN in gaps.
    lags
        The largest lag.

    Returns
    -------
    list of Correlation
        One for each lag with pairs.
    """
    found = []
    for lag in range(1, min(lags, len(residuals) - 1) + 1):
        found.append(_correlation(residuals[:-lag], residuals[lag:]))
    return [c for c in found if c.pairs]


def in_space(residuals: np.ndarray, points: np.ndarray) -> Correlation:
    """The correlation of each place with the nearest one.

    Parameters
    ----------
    residuals
        Weighted residuals, shape ``(n_times, n_places, ...)``; NaN in gaps.
    points
        Shape ``(n_places, dimension)``.

    Returns
    -------
    Correlation
        Pairs that are nearest to each other count once.
    """
    if len(points) < 2:
        return Correlation(0.0, 0)
    nearest = cKDTree(points).query(points, k=2)[1][:, 1]
    pairs = np.unique(np.sort(np.stack([np.arange(len(points)), nearest]), axis=0), axis=1)
    return _correlation(residuals[:, pairs[0]], residuals[:, pairs[1]])


def by_place(residuals: np.ndarray) -> dict[str, np.ndarray]:
    """For each place the number of data, the root mean square and the mean.

    Parameters
    ----------
    residuals
        Weighted residuals, shape ``(n_times, n_places, ...)``; NaN in gaps.

    Returns
    -------
    dict
        Columns ``n``, ``rms`` and ``mean``, shape ``(n_places,)``; NaN where there are no data.
    """
    flat = np.moveaxis(residuals, 1, 0).reshape(residuals.shape[1], -1)
    n = (~np.isnan(flat)).sum(1)
    count = np.where(n > 0, n, np.nan)
    rms = np.sqrt(np.nansum(flat**2, axis=1) / count)
    return {"n": n, "rms": rms, "mean": np.nansum(flat, axis=1) / count}


def _correlation(one: np.ndarray, other: np.ndarray) -> Correlation:
    both = ~np.isnan(one * other)
    a, b = one[both], other[both]
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return Correlation(float(a @ b) / size if size > 0 else 0.0, len(a))
