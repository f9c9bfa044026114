"""How laws are judged: errors at stations, and bands there."""

import copy

import numpy as np
import torch

import femnn
from demos.studies.common import rms_of_known

from .data import Record
from .laws import ByAttributes, Law
from .model import Columns


def judge(record: Record, law: Law) -> dict:
    """Errors of a law at the fitted and the held-out stations, every day."""
    if isinstance(law, ByAttributes):
        law = without_rest(law)
    return judged(record, Columns(record, law, range(len(record))).errors())


def straight_line(record: Record) -> dict:
    """Errors of temperatures that are linear between the boundaries."""
    depths, filled = record.depths, record.filled
    share = (depths[1:-1] - depths[0]) / (depths[-1] - depths[0])
    model = filled[..., :1] + share * (filled[..., -1:] - filled[..., :1])
    errors = model - record.measured[..., 1:-1]
    errors[0] = np.nan
    return judged(record, errors)


def judged(record: Record, errors: np.ndarray) -> dict:
    """Root mean squares in K; errors of shape (days, stations, depths between)."""
    held_out = errors[:, record.held_out]
    return {
        "fitted": rms_of_known(errors[:, record.fitted]),
        "held_out": rms_of_known(held_out),
        "held_out_by_depth": np.sqrt(np.nanmean(held_out**2, axis=(0, 1))).tolist(),
        "by_station": np.sqrt(np.nanmean(errors**2, axis=(0, 2))).tolist(),
    }


def without_rest(law: ByAttributes) -> ByAttributes:
    """What the attributes alone say, as at a station that was not fitted."""
    alone = copy.deepcopy(law)
    alone.upper_rest = alone.lower_rest = None
    return alone


def bands(record: Record, row: dict, draws: int) -> dict:
    """How sure the prediction of the held-out stations is, and how often it is right.

    By runs with the weights drawn from the posterior, and with a rest at each station drawn from
    its prior, whose size the evidence has found.
    """
    law = copy.deepcopy(row["law"])
    columns = Columns(record, without_rest(law), record.held_out, noise=row["noise"])
    model = columns.simulate()
    columns.law, weights = law, femnn.Weights.of(law)
    samples = []
    for drawn, rest in zip(
        row["posterior"].sample(draws, seed=1), rests(record, row, draws), strict=True
    ):
        weights.assign(drawn)
        law.drawn.copy_(torch.from_numpy(rest))
        samples.append(columns.simulate())
    found = scores(columns, model, np.array(samples))
    return found | {
        "model": columns.by_station(model),
        "samples": np.array([columns.by_station(s) for s in samples]),
    }


def rests(record: Record, row: dict, draws: int) -> np.ndarray:
    """Draws of what attributes do not say, shape (draws, stations, 2); zero where fitted."""
    normal = np.random.default_rng(2).normal(size=(draws, len(record), 2))
    normal[:, record.fitted] = 0.0
    return normal * row["rest_std"]


def scores(columns: Columns, model: np.ndarray, samples: np.ndarray) -> dict:
    """How often data are in the 90 % intervals, of the errors alone and with the draws."""
    with_draws = columns.data.scores(model, samples=samples)
    alone = columns.data.scores(model, std=0.0)
    by_place = [with_draws["coverage of 90%", name] for name in columns.data.names]
    by_station = np.array(by_place).reshape(len(columns.stations), -1).mean(axis=1)
    return {
        "coverage": with_draws["coverage of 90%", "all"],
        "crps": with_draws["crps", "all"],
        "coverage_by_station": by_station.tolist(),
        "errors alone": alone["coverage of 90%", "all"],
        "std": rms_of_known(np.std(samples, axis=0)),
    }
