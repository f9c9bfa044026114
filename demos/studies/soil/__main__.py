"""Heat flow in soil that freezes, with laws that nobody has measured learned from thermometers.

``python -m demos.studies.soil`` runs it; ``--help`` lists the options.

d/dt H(T, z) = d/dz (k(T, z) dT/dz) from 5 to 225 cm.  The heat H grows with T and the conductivity
k is positive, both by construction; otherwise they are free (``laws.NetworkLaws``).  The top and
bottom thermometers are boundary values and the twelve between are the data.  The mass term is
H(T) - H(T_old), so a step across freezing loses no latent heat.

The first half of the record is for fitting: its first winter is held back to choose the
penalty on the weights and the stopping, then the networks are fitted to both.  The second
half is judged once, at the end.  The soil's water at freeze-up is not measured and differs
between years, so the latent part of H has one factor w, free for the first winter and 1 for
the second; the second half is judged with w = 1, the last that is known.

The factor w, that the last winter's is taken, and where the networks begin were devised in
studies that had looked at the second half, so the numbers are those of a development, not of
a blind test.  Without w no law that is fitted to both winters does much better than k by depth
alone, with the mean of both winters' w much of the gain is lost, and the hand-made law with w,
of 13 numbers, does better than the networks: what changes from year to year matters most, and
two winters cannot tell it.
"""

import argparse
import copy
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from firedrake import COMM_WORLD
from pyadjoint import ReducedFunctional

import femnn
from demos.studies.common import (
    Stopwatch,
    at_least,
    command_line,
    numbers_of,
    show,
    write_results,
)

from .data import Record, Runs, cut_runs, read_record
from .figure import draw, fields_of_coldest_day
from .laws import HandLaws, Laws, NetworkLaws
from .model import Soil

EVERY = 10  # iterations between two looks at the held-back winter
LOG_WATER = np.linspace(-0.5, 1.25, 8)  # tried for the held-back winter
COLUMNS = {
    "weights": ("weights", "d"),
    "first": ("first winter", ".3f"),
    "second": ("second winter", ".3f"),
    "judged": ("second half", ".3f"),
    "judged_mean_water": ("with mean w", ".3f"),
    "water": ("w, 1st winter", ".2f"),
}


@dataclass
class Study:
    """The record and how it is cut: two winters for fitting, the second half to judge."""

    record: Record
    step: int
    final_step: int
    half: int = field(init=False)

    def __post_init__(self):
        self.half = len(self.record) // 2
        self.winters = [0, self.half // 2]

    def fitting(self, rows: list[int]) -> Runs:
        return cut_runs(self.record, rows, self.half // 2, self.step)

    def judging(self) -> Runs:
        rows = [self.half, self.half]
        return cut_runs(self.record, rows, len(self.record) - self.half, self.final_step)

    def soil(self, laws: Laws, runs: Runs, wet: list[float]) -> Soil:
        return Soil(laws, runs, self.record.depths, wet)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line("soil", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help="the CSV file of hourly soil temperatures at Fargo")
    add("--seed", type=at_least(0), default=0, help="of the initial weights")
    add("--iterations", type=at_least(1), default=40, help="L-BFGS iterations at most")
    add("--step", type=at_least(1), default=2, help="days in a step while fitting")
    add("--final-step", type=at_least(1), default=1, help="days in a step while judging")
    add("--penalties", type=float, nargs="+", default=[0.1, 0.01, 0.001], help="to choose from")
    add("--whole-record", action="store_true", help="only time a gradient, in steps of 6 hours")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args, watch = parse(argv), Stopwatch()
    if COMM_WORLD.size > 1:
        raise SystemExit("soil: 27 nodes are too few for several ranks, use one.")
    if args.whole_record:
        return time_whole_record(args)
    study = Study(read_record(args.data), args.step, args.final_step)
    record = study.record
    print(f"{len(record)} days from {record.first_day}. {record.gaps}", flush=True)

    choice, held_back = choose(study, args)
    rows = fit_all(study, args, choice)
    rows["networks, 2nd winter only"] = judge(study, held_back, first_wet=0.0)
    numbers = {
        "note": " ".join(__doc__.split("\n\n")[-1].split()),
        "gaps": record.gaps,
        "choice": choice,
        "rmse": {n: {k: v for k, v in r.items() if k not in LARGE} for n, r in rows.items()},
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "seconds": watch.seconds(),
    }
    show("RMSE at the twelve inner thermometers, deg C", rows, COLUMNS)
    print(f"{watch.seconds():.0f} s. {numbers['note']}")
    best, hand = rows["networks"], rows["hand-made law, water"]
    write_results(
        args.output,
        numbers,
        lambda: draw(record, study.half, rows, args.final_step),
        {"networks": best["laws"], "hand_made": hand["laws"]},
        fields_of_coldest_day(best["soil"], best["modelled"]),
    )
    return numbers


LARGE = ("laws", "soil", "modelled")


def time_whole_record(args: argparse.Namespace) -> dict:
    """A value and a gradient of untrained networks over the whole record, in steps of 6 hours."""
    record = read_record(args.data, hours=6)
    runs = cut_runs(record, [0], len(record), 1)
    soil = Soil(NetworkLaws(False, args.seed), runs, record.depths, [0.0])
    Jhat = soil.record(penalty=0.0)
    Jhat(soil.weights)
    Jhat.derivative()
    watch = Stopwatch()
    value = Jhat(soil.weights.like(1.01 * soil.weights.vector))
    forward = watch.seconds()
    gradient = Jhat.derivative()
    numbers = {
        "steps": len(runs.measured) - 1,
        "rmse": float(np.sqrt(value)),
        "gradient": float(np.linalg.norm(gradient.vector)),
        "seconds": {"value": forward, "value and gradient": watch.seconds()},
    }
    print(
        f"{numbers['steps']} steps of 6 hours: a value takes {forward:.1f} s, with its gradient "
        f"{watch.seconds():.1f} s (untrained: RMSE {numbers['rmse']:.2f} deg C)."
    )
    return numbers


def choose(study: Study, args: argparse.Namespace) -> tuple[dict, Laws]:
    """Fit the second winter, judge on the first with its water free: penalty and stopping."""
    tried = []
    for penalty in args.penalties:
        laws = NetworkLaws(True, args.seed, omega=1.0)  # wet is log w then
        trial = copy.deepcopy(laws)
        first = study.fitting([study.winters[0]] * len(LOG_WATER))
        held_back = study.soil(trial, first, list(LOG_WATER))

        def score(weights, iterations, penalty=penalty, held_back=held_back):
            held_back.weights.assign(weights)
            error, water = lowest(held_back.errors())
            tried.append((error, iterations, penalty, water, weights))

        def look(step, weights, score=score):
            if step.iteration and step.iteration % EVERY == 0:
                score(weights, step.iteration)

        soil = study.soil(laws, study.fitting([study.winters[1]]), [0.0])
        result = train(soil.record(penalty), args.iterations, look)
        if result.iterations % EVERY:
            score(result.weights, result.iterations)
        print(f"penalty {penalty:g}: {result}", flush=True)
    error, iterations, penalty, water, weights = min(tried, key=lambda t: t[0])
    soil.weights.assign(weights)
    choice = {"penalty": penalty, "iterations": iterations, "rmse": error, "water": water}
    keys = ("rmse", "iterations", "penalty", "water")
    choice["tried"] = [dict(zip(keys, t[:4], strict=True)) for t in tried]
    print(
        f"Chosen on the winter held back: penalty {penalty:g}, {iterations} iterations (RMSE "
        f"{error:.3f} deg C there, with {water:.2f} times the water)",
        flush=True,
    )
    return choice, laws


def lowest(errors: np.ndarray) -> tuple[float, float]:
    """The lowest RMSE over the waters tried, by a parabola, and the water there."""
    squares = np.nanmean(errors**2, axis=(0, 2))
    i = int(np.clip(np.argmin(squares), 1, len(squares) - 2))
    around = np.polyfit(LOG_WATER[i - 1 : i + 2], squares[i - 1 : i + 2], 2)
    at = np.clip(-around[1] / (2 * around[0]), LOG_WATER[i - 1], LOG_WATER[i + 1])
    return float(np.sqrt(np.polyval(around, at))), float(np.exp(at))


def train(Jhat: ReducedFunctional, iterations: int, callback=None) -> femnn.FitResult:
    return femnn.fit(
        Jhat,
        maxiter=iterations,
        ftol=1e-7,
        options={"maxcor": 30},
        callback=callback,
        progress=sys.stderr.isatty(),
    )


def fit_all(study: Study, args: argparse.Namespace, choice: dict) -> dict[str, dict]:
    """Fit the hand-made laws, and the networks as chosen, to both winters."""
    hand_made = {
        "constant properties": HandLaws(),
        "k by depth": HandLaws(by_depth=True),
        "hand-made law": HandLaws(by_depth=True, freezing=True),
        "hand-made law, water": HandLaws(by_depth=True, freezing=True, with_water=True),
    }
    rows = {
        name: fit(study, name, laws, args.iterations * 3 // 2) for name, laws in hand_made.items()
    }
    for name, with_water in (("networks, no water", False), ("networks", True)):
        laws = NetworkLaws(with_water, args.seed)
        rows[name] = fit(study, name, laws, choice["iterations"], choice["penalty"])
    return rows


def fit(study: Study, name: str, laws: Laws, iterations: int, penalty: float = 0.0) -> dict:
    """Fit laws to both winters and judge them."""
    soil = study.soil(laws, study.fitting(study.winters), [1.0, 0.0])
    result = train(soil.record(penalty), iterations)
    print(f"{name}: {result}", flush=True)
    return judge(study, laws) | {"fit": numbers_of(result)}


def judge(study: Study, laws: Laws, first_wet: float = 1.0) -> dict:
    """Errors of laws on both winters and the second half, all with the same steps."""
    winters = cut_runs(study.record, study.winters, study.half // 2, study.final_step)
    fitted = rms(study.soil(laws, winters, [first_wet, 0.0]).errors(), (0, 2))
    omega = 0.0 if laws.omega is None else laws.omega.item()
    water = float(np.exp(omega * first_wet))
    mean = float(np.log((water + 1) / 2) / omega) if omega else 0.0
    soil = study.soil(laws, study.judging(), [0.0, mean])
    modelled = soil.simulate()
    errors = (modelled - soil.runs.measured)[1:, :, 1:-1]
    judged = rms(errors, (0, 2))
    return {
        "weights": sum(p.numel() for p in laws.parameters()),
        "first": float(fitted[0]),
        "second": float(fitted[1]),
        "judged": float(judged[0]),
        "judged_mean_water": float(judged[1]),
        "judged_by_depth": rms(errors[:, 0], 0).tolist(),
        "water": water,
        "laws": laws,
        "soil": soil,
        "modelled": modelled[:, 0],
    }


def rms(errors: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    return np.sqrt(np.nanmean(errors**2, axis=axis))


if __name__ == "__main__":
    main()
