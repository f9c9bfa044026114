"""How laws are judged: in the fitted winters, and in those held out, whose water is not known."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

import femnn

from .data import Part, Winters
from .laws import linearised
from .model import Columns


@dataclass
class Judge:
    """Runs with all days, and with the water of winters that were not fitted as its prior has it.

    Attributes
    ----------
    winters
        How the record is cut.
    draws
        How many laws are drawn from the posterior.
    waters
        How many values of the water there are with each of them, at equal steps of the prior's
        probability; an odd number.
    """

    winters: Winters
    draws: int
    waters: int

    def judge(self, row: dict) -> None:
        """Add errors in the fitted and the held-out winters to a row, and how sure those are."""
        winters = self.winters
        fitted, held_out = (self._columns(row, p) for p in (winters.fitted, winters.held_out))
        fitted.log_w.assign(np.array(row["log_w"]))
        row["fitted"] = rms(fitted.simulate() - fitted.measured)
        best, samples = self.samples(row)
        model, errors = samples.mean(axis=0), best - held_out.measured
        by_water = rms(errors, (1, 3))  # of each water and winter
        row |= {
            "model": model,
            "std": samples.std(axis=0),
            "measured": held_out.measured,
            "usual_water": rms(errors[len(errors) // 2]),
            "best_water": np.exp(self.log_w(row)[by_water.argmin(axis=0)]).tolist(),
            "with_best_water": float(np.sqrt((by_water.min(axis=0) ** 2).mean())),
            "by_depth": rms(model - held_out.measured, (0, 1)).tolist(),
            "by_winter": rms(model - held_out.measured, (0, 2)).tolist(),
            "bias_by_depth": np.nanmean(model - held_out.measured, axis=(0, 1)).tolist(),
            "std_of_model": rms(samples.std(axis=0)),
            "std_by_water": rms(best.std(axis=0)),
        }
        for season, when in self._seasons(held_out).items():
            row[season] = scores(held_out, model, samples, row["noise"], when)
        row["held_out"] = row["all"]["rmse"]

    def samples(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        """The held-out winters as the model has them.

        Returns
        -------
        best : numpy.ndarray
            With the best law and each water, shape (waters, days, winters, depths).
        samples : numpy.ndarray
            With drawn laws and each water, shape (draws * waters, days, winters, depths); what
            networks give is linear in their weights.
        """
        log_w, years = self.log_w(row), self.winters.held_out
        parts = [replace(year, winter=i) for i in range(len(log_w)) for year in years]
        columns = self._columns(row | {"laws": linearised(row["laws"])}, parts)
        columns.log_w.assign(log_w)
        n, mean = row["weights"], row["posterior"].mean
        found = []
        for weights in [mean, *row["posterior"].sample(self.draws, seed=1)]:
            columns.weights.assign(weights[:n])
            model = columns.simulate()
            by_water = model.reshape(len(model), len(log_w), len(years), -1)
            found.append(np.moveaxis(by_water, 1, 0))
        return found[0], np.concatenate(found[1:])

    def log_w(self, row: dict) -> np.ndarray:
        """Logarithms of the water of a winter of which nothing is known."""
        if not row["with_water"]:
            return np.zeros(1)
        return row["spread"] * ndtri((np.arange(self.waters) + 0.5) / self.waters)

    def _columns(self, row: dict, parts: list[Part]) -> Columns:
        return Columns(self.winters.record, row["laws"], parts)

    def _seasons(self, columns: Columns) -> dict[str, np.ndarray]:
        """Which days of which winters are of a season, shape (days, winters, 1)."""
        days = np.arange(1, columns.n_days + 1)[:, None, None]
        cold = columns.record.is_cold(columns.starts[:, None] + days)
        return {"all": np.ones_like(cold), "cold": cold, "warm": ~cold}


def scores(
    columns: Columns, model: np.ndarray, samples: np.ndarray, noise: list[float], when: np.ndarray
) -> dict[str, float]:
    """Scores of a prediction and its samples where ``when`` is true."""
    values = np.where(when, columns.measured, np.nan)
    times, places = len(values), len(columns.data.names)
    std = np.tile(noise, places // len(noise))
    data = femnn.Observations(
        columns.data.at, values.reshape(times, places), std, columns.data.times, units="deg C"
    )
    model, samples = model.reshape(times, places), samples.reshape(-1, times, places)
    found, alone = data.scores(model, samples=samples), data.scores(model, std=0.0)
    keys = {"n": "n", "rmse": "rmse", "bias": "bias", "crps": "crps", "coverage": COVERAGE}
    result = {key: float(found[name, "all"]) for key, name in keys.items()}
    return result | {"coverage_by_errors_alone": float(alone[COVERAGE, "all"])}


COVERAGE = "coverage of 90%"


def rms(errors: np.ndarray, axis: tuple[int, ...] | None = None):
    """Root mean square, without gaps."""
    found = np.sqrt(np.nanmean(errors**2, axis=axis))
    return float(found) if axis is None else found
