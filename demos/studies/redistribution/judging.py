"""How laws are judged: which readings are held out, errors, bands, and models without a law."""

import numpy as np
from firedrake import Function
from pyadjoint import stop_annotating

import femnn
from demos.studies.common import Z90, rms

from .data import Experiment
from .laws import Rate, Suction
from .model import Column, Sizes

HELD_OUT = 9.5, 15.5, 21.5, 28.5, 35.5  # cm, every second place
LATE = 4250.0  # min, the last time that is fitted where what follows is predicted


def splits(experiment: Experiment) -> dict[str, np.ndarray]:
    """Which readings of the redistribution are fitted: half the places, the first days, all."""
    known = experiment
    fitted = {
        "places": ~np.isin(known.x, HELD_OUT),
        "first days": known.time <= LATE,
        "all": np.ones(len(known.time), dtype=bool),
    }
    return {name: known.after & which for name, which in fitted.items()}


def scores(experiment: Experiment, contents: np.ndarray, fitted: np.ndarray) -> dict:
    """RMSE of water contents at the readings, by part; NaN where a part has none."""
    errors, after = contents - experiment.content, experiment.after
    parts = {
        "infiltration": ~after,
        "fitted": after & fitted,
        "held_out": after & ~fitted,
        "redistribution": after,
    }
    found: dict = {name: rms(errors[part]) for name, part in parts.items()}
    found["by_place"] = {
        f"{x:g}": rms(errors[after & (experiment.x == x)]) for x in np.unique(experiment.x[after])
    }
    return found


def between(experiment: Experiment, fitted: np.ndarray) -> dict:
    """Held-out readings by straight lines in x between fitted places, in time between readings.

    Only where there is a fitted place on both sides that was read before and after.
    """
    known, errors = experiment, []
    for i in np.flatnonzero(known.after & ~fitted):
        at = []
        for x in np.unique(known.x[fitted]):
            here = fitted & (known.x == x)
            times = known.time[here]
            if times.min() <= known.time[i] <= times.max():
                at.append((x, np.interp(known.time[i], times, known.content[here])))
        places, values = np.array(at).reshape(-1, 2).T
        if len(places) and places.min() <= known.x[i] <= places.max():
            errors.append(np.interp(known.x[i], places, values) - known.content[i])
    return {"held_out": rms(np.array(errors)), "values": len(errors)}


def bands(row: dict, experiment: Experiment, fitted: np.ndarray) -> dict:
    """How sure the held-out contents are, linear in the weights, and how often bands hold them."""
    column, noise = row["column"], row["noise"][1]
    found = row["posterior"].predict(column.to_judge)
    off = np.abs(found.mean)
    total = np.hypot(found.std, noise)
    place = experiment.x[experiment.after & ~fitted]
    return {
        "coverage": float(np.mean(off < Z90 * total)),
        "coverage, errors alone": float(np.mean(off < Z90 * noise)),
        "coverage by place": {
            f"{x:g}": float(np.mean((off < Z90 * total)[place == x])) for x in np.unique(place)
        },
        "std_rms": rms(found.std),
        "std": total.tolist(),
    }


def history(row: dict) -> dict[str, np.ndarray]:
    """A run as arrays: times, places, and of each time the contents and the states there."""
    column = row["column"]
    where = np.argsort(column.x)
    times, contents, states = [], [], []

    def observe(theta: Function, time: float) -> None:
        times.append(time)
        contents.append(theta.dat.data_ro[where].copy())
        states.append(column.s.dat.data_ro[where].copy())

    with stop_annotating():
        column.march(observe)
    found = {"time": times, "content": contents, "state": states}
    return {k: np.array(v) for k, v in found.items()} | {"x": column.x[where]}


def finer(row: dict, experiment: Experiment) -> dict[str, float]:
    """How far the contents are from those with half the cells' length and twice the steps."""
    column, known = row["column"], row["column"].sizes
    sizes = Sizes(known.cell / 2, 2 * known.wetting, 2 * known.after)
    fine = Column(experiment, row["laws"], experiment.after, sizes)
    fine.inlet.assign(float(column.inlet))
    change = fine.simulate() - column.simulate()
    after = experiment.after
    return {"infiltration": rms(change[~after]), "redistribution": rms(change[after])}


def law_of(row: dict, theta: np.ndarray | float, s: np.ndarray | float) -> np.ndarray:
    """Suctions at water contents and states."""
    return np.ravel(femnn.evaluate(Suction(row["laws"]), theta, s))


def described(row: dict) -> dict:
    """How much more suction drying brings, how soon it is remembered, and where it dried most."""
    theta = np.array([0.1, 0.2, 0.3, 0.4])
    more = law_of(row, theta, 1.0) / law_of(row, theta, 0.0)
    rates = femnn.evaluate(Rate(row["laws"]), theta, np.zeros(4))
    run = history(row)
    return {
        "theta": theta.tolist(),
        "suction after drying / after wetting": more.ravel().tolist(),
        "drying that is remembered": (1 / rates).ravel().tolist(),
        "largest state": float(run["state"].max()),
        "where": float(run["x"][int(run["state"].max(axis=0).argmax())]),
    }
