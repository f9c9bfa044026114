"""How analyses and predictions are judged: against the truth at places without gauges."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from firedrake import split
from pyadjoint.tape import no_annotations

import femnn
from demos.studies.common import Z90, rms

from .model import Channel
from .twin import LEVEL_ERROR, PLACES, Twin


@dataclass
class Run:
    """Levels and discharges at the places held out, shape ``(times, places)``, with what is known.

    Attributes
    ----------
    level, discharge
        By the model.
    level_std, discharge_std
        Of the model's values, by the posterior; NaN where there is none.
    noise
        Standard deviation of a reading's error of the level, m.
    """

    level: np.ndarray
    discharge: np.ndarray
    level_std: np.ndarray
    discharge_std: np.ndarray
    noise: float = LEVEL_ERROR


@no_annotations
def alone(channel: Channel, twin: Twin, *observers: Callable) -> Run:
    """A run from the present initial state, without a band; observers take (state, time)."""
    stations = femnn.Stations(channel.mesh, PLACES)
    found: dict[int, list] = {0: [], 1: []}

    def observe(state, time: float) -> None:
        if twin.times.is_reading(time):
            for i, part in enumerate(split(state)):
                found[i].append(np.array(stations(part)))

    channel.march(0.0, twin.times.end, observe, *observers)
    level, discharge = np.array(found[0]), np.array(found[1])
    return Run(level, discharge, np.nan * level, np.nan * level)


def with_band(posterior: femnn.LaplacePosterior, errors: list, twin: Twin, noise: float) -> Run:
    """The analysis and what it predicts, linear in the controls around the best ones.

    Parameters
    ----------
    posterior
        Of a functional that was recorded with the model's errors.
    errors
        Model minus truth of level and discharge, as :meth:`Assimilation.record_beyond` gives it.
    twin
        The truth.
    noise
        Standard deviation of a reading's error of the level, m.
    """
    shape = twin.level.shape
    level, discharge = (posterior.predict(e) for e in errors)
    return Run(
        twin.level + level.mean.reshape(shape),
        twin.discharge + discharge.mean.reshape(shape),
        level.std.reshape(shape),
        discharge.std.reshape(shape),
        noise,
    )


def scores(run: Run, twin: Twin) -> dict[str, dict[str, float]]:
    """Errors and coverage of the 90 % bands, at start and end of the window and by tides."""
    times = twin.times.readings
    parts = {"start": times < 1e-6, "end": np.isclose(times, twin.times.window)}
    return {name: _scores(run, twin, which) for name, which in (parts | twin.times.parts()).items()}


def _scores(run: Run, twin: Twin, which: np.ndarray) -> dict[str, float]:
    level, discharge = (run.level - twin.level)[which], (run.discharge - twin.discharge)[which]
    reading = (run.level - twin.level_held_out)[which]
    bands = {
        "level_coverage": np.abs(level) <= Z90 * run.level_std[which],
        "discharge_coverage": np.abs(discharge) <= Z90 * run.discharge_std[which],
        "reading_coverage": np.abs(reading) <= Z90 * np.hypot(run.level_std, run.noise)[which],
    }
    has_band = np.isfinite(run.level_std).all()
    return {
        "level": rms(level),
        "discharge": rms(discharge),
        "level_std": rms(run.level_std[which]),
    } | {name: float(inside.mean()) if has_band else np.nan for name, inside in bands.items()}
