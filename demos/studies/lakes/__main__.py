"""Mixing in lakes: the eddy diffusivity as a law of depth, stability and wind, from thermometers.

``python -m demos.studies.lakes`` runs it; ``--help`` lists the options.

A dT/dt = d/dz (A K dT/dz) + light, below the first thermometer, whose temperature is given.  The
other thermometers of Lough Feeagh are the data.  Laws of K are fitted to parts of 2004 to 2010
(four months each, from the measured profile of their first day, side by side in one mesh), and
judged by one run through 2011 to 2016 without corrections.

Protocol: what a network takes of the wind is chosen on 2010, with 2004 to 2009 fitted; its prior
and the size of the errors are those of the largest evidence; 2011 to 2016 are looked at once, at
the end.  Langtjern, another lake, is predicted with the laws as they are, and after a fit to three
of its summers.
"""

import argparse
import copy
from functools import partial
from pathlib import Path

import numpy as np
from firedrake import COMM_WORLD

import femnn
from demos.studies.common import (
    Stopwatch,
    at_least,
    command_line,
    show,
    tell_evidence,
    write_results,
)

from .data import read_lake
from .figure import draw
from .judging import Years, band, judge, without_a_model, year_error
from .laws import ConstantK, Law, NetworkLaw, PowerOfN2, WeekLaw, WindLaw
from .model import Columns

HAND_MADE = {
    "constant K": ConstantK,
    "K = a (N2)^-b": PowerOfN2,
    "hand-made law": WindLaw,
    "hand-made law, a week's wind": WeekLaw,
}
COLUMNS = {
    "weights": ("weights", "d"),
    "fitted": ("fitted, deg C", ".3f"),
    "held_out": ("held out, deg C", ".3f"),
    "solves": ("PDE solves", "d"),
    "seconds": ("seconds", ".0f"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line("lakes", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help="the folder with the lakes' CSV files")
    add("--seed", type=at_least(0), default=0, help="of the initial weights")
    add("--width", type=at_least(1), default=10, help="of the network's two hidden layers")
    add("--part", type=at_least(5), default=122, help="days in a part that is fitted")
    add("--every", type=at_least(1), default=10, help="days between the data that are fitted")
    add("--rounds", type=at_least(1), default=6, help="of fit and evidence")
    add("--iterations", type=at_least(1), default=3, help="Gauss-Newton iterations in a round")
    add("--winds", nargs="+", default=["1", "1,7"], help="to choose from: means over these days")
    add("--years", type=int, nargs=4, default=[2004, 2010, 2011, 2016], help="fitted, held out")
    add("--months", type=int, nargs=2, default=[1, 12], help="of each year, first and last")
    add("--draws", type=at_least(2), default=10, help="of laws from the posterior, for bands")
    add("--no-langtjern", action="store_true", help="leave out the other lake")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args, watch = parse(argv), Stopwatch()
    if COMM_WORLD.size > 1:
        raise SystemExit("lakes: the columns are too small for several ranks, use one.")
    years = Years(
        read_lake(args.data),
        tuple(args.years[:2]),
        tuple(args.years[2:]),
        args.part,
        args.every,
        season=tuple(args.months),
    )
    rows = {name: fit(years, name, law()) for name, law in HAND_MADE.items()}
    choice, chosen = choose(years, args)
    law = chosen["law"]
    rows["network"] = with_evidence(years, law, args, *years.fitted, chosen)
    for row in rows.values():
        judge(years, row)
    references = without_a_model(years)
    bands = band(years, rows["network"], args.draws)
    budget = rows["network"]["columns"].heat_budget()
    numbers = {
        "rmse": {n: {k: v for k, v in r.items() if k not in LARGE} for n, r in rows.items()},
        "without_a_model": references,
        "choice": choice,
        "bands": {k: v for k, v in bands.items() if isinstance(v, (int, float)) and v == v},
        "heat_budget": budget,
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
    }
    if not args.no_langtjern:
        numbers["langtjern"] = other_lake(args, rows)
    numbers["seconds"] = watch.seconds()
    tell(rows, numbers)
    networks = {"network": law, "hand_made": rows["hand-made law"]["law"]}
    figure = partial(draw, years.lake, rows, bands)
    write_results(args.output, numbers, figure, networks, rows["network"]["fields"])
    return numbers


LARGE = ("law", "columns", "posterior", "Jhat", "fields", "errors", "visited")


def fit(years: Years, name: str, law: Law) -> dict:
    """Fit a hand-made law to the fitted years."""
    columns = years.training(law, *years.fitted)
    columns.noise.assign(0.5)
    result = femnn.fit(columns.record(), "gauss-newton", maxiter=25, ftol=1e-4, progress=False)
    print(f"{name}: {result}", flush=True)
    return {
        "law": law,
        "weights": len(columns.weights.vector),
        "numbers": columns.weights.vector.tolist(),
        "solves": solves_of(result.solves, columns),
        "seconds": result.seconds,
    }


def solves_of(solves: femnn.FitResult, columns: Columns) -> int:
    """Time steps of the model that were run, forwards, as adjoints and as tangents."""
    return columns.n_steps * (solves.forward + solves.adjoint + solves.tangent)


def around(args: argparse.Namespace, winds: list[int], hand: Law) -> NetworkLaw:
    """A network that corrects a hand-made law, at first by nothing."""
    widths = (args.width, args.width)
    return NetworkLaw(widths, tuple(winds), copy.deepcopy(hand), args.seed)


def with_evidence(
    years: Years,
    law: NetworkLaw,
    args: argparse.Namespace,
    first: int,
    last: int,
    known: dict | None = None,
) -> dict:
    """Fit a network to some years, with prior and errors from the evidence.

    ``known`` is what an earlier fit of the law has found, from which it goes on.
    """
    known = known or {"noise": 0.35, "precision": 1.0, "solves": 0, "seconds": 0.0}
    watch, columns = Stopwatch(), years.training(law, first, last)
    columns.noise.assign(known["noise"])
    prior = femnn.GaussianPrior(columns.weights, known["precision"])
    Jhat = columns.record(prior)
    result = femnn.fit_with_evidence(
        Jhat, rounds=args.rounds, maxiter=args.iterations, callback=tell_evidence, progress=False
    )
    visited = femnn.Visited(columns.K)
    columns.simulate(lambda T, time: visited.add())
    return {
        "law": law,
        "visited": visited,
        "Jhat": Jhat,
        "posterior": result.posterior,
        "columns": columns,
        "weights": len(columns.weights.vector),
        "effective": result.posterior.effective_parameters,
        "evidence": result.history,
        "noise": float(columns.noise),
        "precision": prior.precision.tolist(),
        "solves": known["solves"] + solves_of(result.solves, columns),
        "seconds": known["seconds"] + watch.seconds(),
    }


def choose(years: Years, args: argparse.Namespace) -> tuple[dict, dict]:
    """What a network takes of the wind: fitted without the last year, judged on it."""
    first, last = years.fitted
    hand = WindLaw()
    columns = years.training(hand, first, last - 1)
    columns.noise.assign(0.5)
    femnn.fit(columns.record(), "gauss-newton", maxiter=25, ftol=1e-4, progress=False)
    tried: list[dict] = []
    fits = []
    for winds in args.winds:
        days = [int(n) for n in winds.split(",")]
        law = around(args, days, hand)
        fits.append(with_evidence(years, law, args, first, last - 1))
        tried.append({"winds": days, "rmse": year_error(years, law, last)})
        tried[-1] |= {key: fits[-1][key] for key in ("evidence", "effective", "noise")}
        print(f"winds of {winds} days: RMSE in {last} {tried[-1]['rmse']:.3f} deg C", flush=True)
    best = int(np.argmin([t["rmse"] for t in tried]))
    choice = {"winds": tried[best]["winds"], "hand_made": year_error(years, hand, last)}
    print(f"{choice}", flush=True)
    return choice | {"tried": tried}, fits[best]


def other_lake(args: argparse.Namespace, rows: dict[str, dict]) -> dict:
    """Summers of another lake: predicted, and with the laws fitted to the first three of them."""
    lake = read_lake(args.data, "langtjern")
    years = Years(lake, (2013, 2015), (2016, 2018), 200, args.every, spacing=0.5, season=(6, 10))
    found = {"without refitting": {}, "refitted": {}}
    for name, row in rows.items():
        found["without refitting"][name] = judged(years, {"law": row["law"]})
    row = fit(years, "hand-made law, Langtjern", WindLaw())
    found["refitted"]["hand-made law"] = judged(years, row)
    law = around(args, rows["network"]["law"].winds, row["law"])
    refitted = with_evidence(years, law, args, *years.fitted)
    found["refitted"]["network"] = judged(years, refitted)
    return found | {"without a model": without_a_model(years)}


def judged(years: Years, row: dict) -> dict:
    judge(years, row)
    keys = ("fitted", "held_out", "held_out_by_depth", "effective", "noise")
    return {key: row[key] for key in keys if key in row}


def tell(rows: dict[str, dict], numbers: dict) -> None:
    """The numbers of the study, on the terminal."""
    show("RMSE below the first thermometer", rows, COLUMNS)
    for name, row in numbers["without_a_model"].items():
        print(f"{name}: {row['fitted']:.3f}, held out {row['held_out']:.3f}")
    bands, budget = numbers["bands"], numbers["heat_budget"]
    coverage = {k: v for k, v in bands.items() if "coverage" in k}
    noise = rows["network"]["noise"]
    print(f"The network's bands in the held-out years: {coverage}, noise {noise:.3f} K")
    print("Heat, MJ/m2: " + ", ".join(f"{v:.4g} {k}" for k, v in budget.items()))
    for how, of_laws in numbers.get("langtjern", {}).items():
        for name, row in of_laws.items():
            print(f"Langtjern, {how}, {name}: {row['fitted']:.3f}, {row['held_out']:.3f}")
    print(f"{numbers['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
