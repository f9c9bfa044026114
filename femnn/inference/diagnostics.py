"""Whether chains have mixed, and how much their draws are worth.  Needs numpy only."""

from __future__ import annotations

import numpy as np


def r_hat(chains: np.ndarray) -> np.ndarray:
    """The factor by which a chain's spread may still be too small; near one where it has mixed.

    Parameters
    ----------
    chains
        Shape ``(n_chains, n_draws, n)``; each is split in two, so that one that drifts is seen.

    Returns
    -------
    numpy.ndarray
        Shape ``(n,)``; wanted are numbers below 1.01 to 1.1.

    References
    ----------
    A. Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), section 11.4.
    """
    halves = _halves(chains)
    within, total = _spreads(halves)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(total / within)


def effective_draws(chains: np.ndarray) -> np.ndarray:
    """The number of independent draws that say as much of a mean as the chains.

    Parameters
    ----------
    chains
        Shape ``(n_chains, n_draws, n)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(n,)``.

    References
    ----------
    A. Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), section 11.5, with the sum of
    correlations ended as by C. J. Geyer, Statist. Sci. 7 (1992); A. Vehtari, A. Gelman,
    D. Simpson, B. Carpenter, P.-C. Burkner, Bayesian Anal. 16 (2021).
    """
    halves = _halves(chains)
    m, n, size = halves.shape
    within, total = _spreads(halves)
    covariance = _autocovariance(halves).mean(0)
    result = np.empty(size)
    for i in range(size):
        if not within[i] > 0:
            result[i] = np.nan
            continue
        correlation = 1 - (within[i] - covariance[:, i] * n / (n - 1)) / total[i]
        correlation[0] = 1.0
        result[i] = m * n / _time(correlation)
    return np.minimum(result, m * n * np.log10(m * n))


def _time(correlation: np.ndarray) -> float:
    """One and twice the sum of correlations, while sums of neighbours are positive and fall."""
    even = len(correlation) // 2 * 2
    pairs = correlation[:even].reshape(-1, 2).sum(1)
    ends = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: ends[0]] if len(ends) else pairs)
    return max(-1 + 2 * float(pairs.sum()), np.finfo(float).tiny)


def _halves(chains: np.ndarray) -> np.ndarray:
    half = chains.shape[1] // 2
    return np.concatenate([chains[:, :half], chains[:, -half:]])


def _spreads(chains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean variance of chains, and the variance of all that overestimates while they differ."""
    n = chains.shape[1]
    within = chains.var(1, ddof=1).mean(0)
    return within, (n - 1) / n * within + chains.mean(1).var(0, ddof=1)


def _autocovariance(chains: np.ndarray) -> np.ndarray:
    """Of each chain, by the lag in steps; shape as the chains."""
    n = chains.shape[1]
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    spectrum = np.fft.rfft(chains - chains.mean(1, keepdims=True), size, axis=1)
    return np.fft.irfft(np.abs(spectrum) ** 2, size, axis=1)[:, :n] / n
