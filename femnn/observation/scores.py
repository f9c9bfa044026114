"""How good a model is: scores of its values, and of how sure of them it is.

The predictive density of a datum is that of the model's samples, each with the datum's own error:
a mixture of normal densities.  One sample whose error has the model's variance too is the case of a
normal posterior.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

PAIRS = 2_000_000  # of samples, that are compared at a time
AT_LEAST = 3  # values from which a spread of them says something


def rmse(model: np.ndarray, data: np.ndarray) -> float:
    """Root mean square of the differences; arrays of shape ``(n,)``."""
    return float(np.sqrt(np.mean((model - data) ** 2)))


def bias(model: np.ndarray, data: np.ndarray) -> float:
    """Mean of model minus data; arrays of shape ``(n,)``."""
    return float(np.mean(model - data))


def nse(model: np.ndarray, data: np.ndarray, means: np.ndarray | None = None) -> float:
    """One minus the mean square of the differences by the variance of the data (Nash, Sutcliffe).

    NaN for fewer than three data, or data without variance.

    Parameters
    ----------
    model, data
        Shape ``(n,)``.
    means
        What the data's variance is about, shape ``(n,)``; their mean by default.
    """
    spread = np.sum((data - (data.mean() if means is None else means)) ** 2)
    if len(data) < AT_LEAST or not spread > 0:
        return np.nan
    return float(1 - np.sum((model - data) ** 2) / spread)


def kge(model: np.ndarray, data: np.ndarray) -> float:
    """One minus the distance of correlation, ratio of spreads and ratio of means from one.

    Of Gupta, Kling, Yilmaz and Martinez (2009).  NaN for fewer than three data, a mean of zero, or
    no variance; arrays of shape ``(n,)``.
    """
    if len(data) < AT_LEAST or not (data.std() > 0 and model.std() > 0) or data.mean() == 0:
        return np.nan
    correlation = np.corrcoef(model, data)[0, 1]
    ratios = model.std() / data.std(), model.mean() / data.mean()
    return float(1 - np.sqrt((correlation - 1) ** 2 + sum((ratio - 1) ** 2 for ratio in ratios)))


def crps(samples: np.ndarray, std: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The continuous ranked probability score of each datum, in the data's unit.

    Parameters
    ----------
    samples
        Shape ``(n_samples, n)``.
    std
        Standard deviation around each sample, shape ``(n,)``.
    data
        Shape ``(n,)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(n,)``; zero for a prediction that is sure and right.

    References
    ----------
    E. P. Grimit, T. Gneiting, V. J. Berrocal, N. A. Johnson: The continuous ranked probability
    score for circular variables and its application to mesoscale forecast ensemble verification,
    Q. J. R. Meteorol. Soc. 132 (2006), for mixtures of normal densities.
    """
    result = _mean_distance(samples - data, std).mean(0)
    size = max(1, PAIRS // max(1, len(samples) ** 2))
    for start in range(0, len(data), size):
        part = slice(start, start + size)
        pairs = samples[:, None, part] - samples[None, :, part]
        result[part] -= 0.5 * _mean_distance(pairs, np.sqrt(2) * std[part]).mean((0, 1))
    return result


def coverage(samples: np.ndarray, std: np.ndarray, data: np.ndarray, level: float) -> np.ndarray:
    """Whether each datum is in the central interval of a probability.

    Parameters
    ----------
    samples, std, data
        As for :func:`crps`, shapes ``(n_samples, n)``, ``(n,)`` and ``(n,)``.
    level
        The probability.

    Returns
    -------
    numpy.ndarray
        Shape ``(n,)``, bool.
    """
    below = ndtr((data - samples) / std).mean(0)
    return np.abs(2 * below - 1) <= level


def _mean_distance(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """The mean size of a normal variable."""
    z = mean / std
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return std * (2 * density + z * (2 * ndtr(z) - 1))
