"""Training through the model beside training through surrogates of it, from one beginning."""

from dataclasses import dataclass
from typing import Any

import numpy as np

import femnn
from demos.studies.common import Stopwatch

from .data import Record
from .laws import ByAttributes
from .model import spread, steps_of
from .surrogate import Sampler, Samples, box, fit_surrogate, surrogate_error, train_through

TESTS = 8  # samples on which surrogates are judged, in the box and beyond each


@dataclass
class Training:
    """One training, to be done in several ways.

    Parameters
    ----------
    record
        The stations' records.
    chosen
        The law that was chosen, with its prior and the size of the errors.
    every
        Days from one datum to the next.
    seed
        Of the initial weights.
    """

    record: Record
    chosen: dict[str, Any]
    every: int
    seed: int

    def beginning(self) -> ByAttributes:
        """The law before the training."""
        table = self.record.standard(self.chosen["knows"])
        return ByAttributes(table, self.record.fitted, self.chosen["width"], self.seed)

    def by_the_model(self) -> dict:
        """Through the model, by Gauss and Newton's method."""
        law, watch = self.beginning(), Stopwatch()
        Jhat = spread(*self._density(law))
        result = femnn.fit(Jhat, "gauss-newton", maxiter=25, ftol=1e-6, progress=False)
        return {
            "loss": result.loss,
            "steps": steps_of(result, self.record),
            "seconds": watch.seconds(),
        }

    def loss(self, law: ByAttributes) -> float:
        """Minus the logarithm of the posterior density at a law, by the model itself."""
        return float(spread(*self._density(law)).functional)

    def _density(self, law: ByAttributes) -> tuple:
        prior = femnn.GaussianPrior(femnn.Weights.of(law), self.chosen["prior"].precision)
        return self.record, law, self.record.fitted, self.every, self.chosen["noise"], prior


def compare(
    training: Training, centre: np.ndarray, reach: float, n: int, iterations: int
) -> dict[str, Any]:
    """The training through the model, and through surrogates of more and more samples.

    Parameters
    ----------
    training
        What is trained.
    centre, reach
        The box of the samples, in the stations' two numbers.
    n
        The number of samples.
    iterations
        Of the surrogates' fits.

    Returns
    -------
    dict
        ``row`` has the law that was trained through the surrogate of all values and gradients.
    """
    stations = training.record.fitted
    sampler = Sampler(training.record, stations, training.every)
    inside, test = (
        sampler(box(k, len(stations), centre, reach, seed)) for k, seed in ((n, 1), (TESTS, 2))
    )
    beyond = sampler(ring(TESTS, len(stations), centre, reach))
    tables: dict[str, list[dict]] = {"values": [], "values and gradients": []}
    for name, table in tables.items():
        for k in sorted({max(1, n // 4), max(1, n // 2), n}):
            row, law = through(training, inside.first(k), name != "values", iterations)
            surrogate = row.pop("surrogate")
            row["inside"], row["beyond"] = (surrogate_error(surrogate, s) for s in (test, beyond))
            table.append(row)
    outside = np.abs(law.theta_of(stations) - centre) > reach
    weights, last = len(femnn.Weights.of(law)), tables["values and gradients"][-1]
    costs = {
        "steps": inside.steps,
        "seconds": inside.seconds + last["fit, s"] + last["training, s"],
    }
    return {
        "surrogates": tables,
        "model": training.by_the_model(),
        "seconds of samples": inside.seconds,
        "stations beyond the box": int(outside.any(axis=1).sum()),
        "row": {"law": law, "weights": weights} | costs,
    }


def through(
    training: Training, samples: Samples, gradients: bool, iterations: int
) -> tuple[dict, ByAttributes]:
    """Fit a surrogate, train through it, and say what the model says of the result."""
    watch, chosen = Stopwatch(), training.chosen
    surrogate = fit_surrogate(samples, gradients, iterations, training.seed)
    fit = watch.seconds()
    law = train_through(
        surrogate,
        training.beginning(),
        training.record.fitted,
        samples.n_data,
        chosen["noise"],
        chosen["prior"],
    )
    seconds = watch.seconds() - fit
    row = {"samples": len(samples.theta), "fit, s": fit, "training, s": seconds}
    return row | {"loss": training.loss(law), "surrogate": surrogate}, law


def ring(n: int, stations: int, centre: np.ndarray, reach: float) -> np.ndarray:
    """Points beyond the box, up to one half further in each direction."""
    points = box(n, stations, np.zeros(2), 1.0, 3)
    largest = np.abs(points).max(axis=2, keepdims=True)
    return centre + reach * points / largest * (1 + largest / 2)
