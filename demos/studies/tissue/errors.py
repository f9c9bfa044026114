"""Errors of a wave: of its potential, and of the times at which it activates the nodes."""

import numpy as np

from .membrane import REST
from .model import OBSERVED, Protocol

ACTIVE = -35.0  # mV


def activations(v: np.ndarray, protocol: Protocol) -> np.ndarray:
    """When v, (times, nodes), first becomes active after each stimulus; NaN where it does not."""
    below, above = v[:-1], v[1:]
    crosses = (below < ACTIVE) & (above >= ACTIVE)
    share = (ACTIVE - below) / np.where(crosses, above - below, 1.0)
    begins = OBSERVED * np.arange(len(below))
    times = np.where(crosses, begins[:, None] + OBSERVED * share, np.inf)
    beat = np.zeros(len(below)) if np.isinf(protocol.period) else begins // protocol.period
    firsts = np.array([times[beat == k].min(axis=0) for k in np.unique(beat)])
    return np.where(np.isinf(firsts), np.nan, firsts)


def errors_of(v: np.ndarray, truth: np.ndarray, protocol: Protocol) -> dict:
    """Of v, (times, nodes), and of the nodes' activation."""
    found, wanted = activations(v, protocol), activations(truth, protocol)
    both = ~np.isnan(found) & ~np.isnan(wanted)
    missed = int((np.isnan(found) != np.isnan(wanted)).sum())
    late = np.abs(found - wanted)[both]
    return {
        "v": relative(v - REST, truth - REST),
        "v_of_all": relative(v, truth),
        "activation": float(late.mean()) if both.any() else np.inf,
        "activated": int((~np.isnan(wanted)).sum()),
        "missed": missed,
    }


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    """Relative l2 difference."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
