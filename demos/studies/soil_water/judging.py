"""How laws are judged: heads at depths that were not fitted, bands, and what is identifiable."""

import numpy as np
import torch
from pyadjoint import stop_annotating

import femnn
from demos.studies.common import rms

from .data import Evaporation
from .laws import Laws, LogConductivity, WaterContent
from .model import Column

GRID = np.round(np.arange(1.2, 2.81, 0.4), 1)  # pF at which laws are printed


def scores(
    experiment: Evaporation,
    heads: np.ndarray,
    fitted: tuple[float, ...],
    held_out: tuple[float, ...],
) -> dict:
    """RMSE of heads, shape (times, depths), in cm and in log10(-h)."""
    parts = {"fitted": experiment.columns(fitted), "held_out": experiment.columns(held_out)}
    errors = heads - experiment.heads
    logs = np.log10(heads / experiment.heads)
    found: dict = {name: rms(errors[:, columns]) for name, columns in parts.items()}
    found |= {f"log10_{name}": rms(logs[:, columns]) for name, columns in parts.items()}
    found["by_depth"] = [rms(e) for e in errors.T]
    found["log10_all"] = rms(logs)
    return found


def bands(row: dict, experiment: Evaporation, held_out: tuple[float, ...], draws: int) -> dict:
    """How sure the heads at the held-out depths are, and how often 90 % bands hold the data.

    By the posterior, linear in the weights; and by runs with weights drawn from it.
    """
    column, posterior, noise = row["column"], row["posterior"], row["noise"]
    found = posterior.predict(column.to_judge)
    std = found.std.reshape(len(experiment.times), -1)
    differences = found.mean.reshape(std.shape)
    by_draws = _drawn(row, experiment, held_out, draws)
    coverage = {
        "coverage": np.hypot(std, noise),
        "coverage, errors alone": np.full(std.shape, noise),
        "coverage, by draws": np.hypot(by_draws, noise),
    }
    numbers = {k: float(np.mean(np.abs(differences) < 1.645 * v)) for k, v in coverage.items()}
    return numbers | {
        "std": std,
        "std_rms": rms(std),
        "std_by_draws_rms": rms(by_draws),
        "correlation": _correlation(row, experiment),
    }


def _drawn(
    row: dict, experiment: Evaporation, held_out: tuple[float, ...], draws: int
) -> np.ndarray:
    """Standard deviations of log10(-h) at the held-out depths over runs with drawn weights."""
    column, posterior = row["column"], row["posterior"]
    depths = experiment.depths[experiment.columns(held_out)]
    found = []
    for weights in posterior.sample(draws, seed=1):
        column.weights.assign(weights)
        found.append(np.log10(-column.simulate(depths)))
    column.weights.assign(posterior.mean)
    return np.std(found, axis=0, ddof=1)


def _correlation(row: dict, experiment: Evaporation) -> float:
    """The mean correlation between depths of the errors at one time."""
    errors = np.log10(row["heads"] / experiment.heads)
    table = np.corrcoef(errors.T)
    return float(table[np.triu_indices(len(table), 1)].mean())


def identified(row: dict) -> dict:
    """How sure each law is at some suctions, and the joint changes that are least sure."""
    laws, posterior = row["laws"], row["posterior"]
    h = -(10**GRID)
    content, log_K = WaterContent(laws), LogConductivity(laws)
    known = {"pF": GRID.tolist()}
    for name, law in (("theta", content), ("log10 K", log_K)):
        found = posterior.law(law, h)
        known |= {name: found.mean.tolist(), f"std of {name}": found.std.tolist()}
    fine = -(10 ** np.linspace(GRID[0], GRID[-1], 40))
    pairs = posterior.trade_offs((content, fine), (log_K, fine), n=3)
    known["trade_offs"] = [
        {
            "left of the prior": pair.ratio,
            "theta": _span(pair.changes[0]),
            "log10 K": _span(pair.changes[1]),
        }
        for pair in pairs
    ]
    known["spectrum"] = posterior.spectrum[:12].tolist()
    return known


def _span(change: np.ndarray) -> list[float]:
    """A law's change where the soil is wet, in the middle, and where it is dry."""
    return change[[0, len(change) // 2, -1]].tolist()


def visited(column: Column) -> tuple[float, float]:
    """The least and the largest head that the column had."""
    seen = femnn.Visited(column.law)
    with stop_annotating():
        column.march(lambda h, time: seen.add())
    return float(seen.range[0, 0]), float(seen.range[0, 1])


def tabled(laws: Laws, pF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """theta and log10 K at suctions."""
    h = torch.tensor(-(10**pF))[:, None]
    with torch.no_grad():
        return laws.theta(h).numpy().ravel(), (laws.log_K(h) / np.log(10)).numpy().ravel()


def distance_of_laws(laws: Laws, true: Laws, pF: np.ndarray) -> dict[str, float]:
    """How far laws are from others, over suctions: theta without its mean, and log10 K."""
    theta, log_K = tabled(laws, pF)
    theta_true, log_K_true = tabled(true, pF)
    shift = theta - theta_true
    return {"theta": rms(shift - shift.mean()), "log10 K": rms(log_K - log_K_true)}
