"""What readings tell of the initial state and of the law, and what they cannot tell apart."""

import warnings
from typing import Any

import numpy as np

import femnn
from demos.studies.common import rms

from .assimilation import Assimilation


def what_is_told(assimilation: Assimilation, h: np.ndarray) -> dict[str, float]:
    """What the readings of a window tell, by the posterior at the present values.

    Parameters
    ----------
    assimilation
        With a law that has weights.
    h
        Depths at which the law counts.

    Returns
    -------
    dict
        Parameters that are determined of state and law; the standard deviations of the level at the
        beginning (m) and of log n, both root mean squares, the latter also as it would be if the
        state were known; and the largest correlation that a combination of the state's entries has
        with one of the law's.
    """
    posterior = posterior_of(assimilation)
    by_control = posterior.parameters_by_control()
    law = assimilation.channel.law
    state_known = posterior_of(assimilation, state=False)
    return {
        "parameters of the state": float(by_control[:2].sum()),
        "parameters of the law": float(by_control[2]),
        "std of the level": rms(posterior.of(assimilation.channel.level).std.dat.data_ro),
        "std of log n": log_std(posterior, law, h),
        "std of log n, state known": log_std(state_known, law, h),
        "largest correlation": largest_correlation(posterior, len(assimilation.channel.weights)),
    }


def posterior_of(assimilation: Assimilation, state: bool = True) -> femnn.LaplacePosterior:
    """The posterior at the present values, which are not the best ones of a shorter window."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "laplace: the minimum is about")
        return femnn.laplace(assimilation.record(state=state))


def log_std(posterior: femnn.LaplacePosterior, law: Any, h: np.ndarray) -> float:
    found = posterior.law(law, h)
    return rms(found.std / found.mean)


def largest_correlation(posterior: femnn.LaplacePosterior, n_weights: int) -> float:
    """The first canonical correlation of the last controls with all others."""
    covariance = posterior.covariance
    n = len(covariance) - n_weights
    halves = [np.linalg.cholesky(part) for part in (covariance[:n, :n], covariance[n:, n:])]
    between = np.linalg.solve(halves[0], covariance[:n, n:])
    return float(np.linalg.svd(np.linalg.solve(halves[1], between.T), compute_uv=False)[0])
