"""Redistribution of water after infiltration: a law with memory, as networks with a state.

``python -m demos.studies.redistribution`` runs it; ``--help`` lists the options.

A horizontal column of soil is wetted from one end, then its inlet is shut: behind it dries while
the front goes on.  Water contents are measured for 25 days.  Fitted are laws without memory (a
network D(theta)), with memory by hand, and with memory as networks, to the infiltration and to
half of the places of the redistribution; judged are the other places.  Then the same with the
first three days, and with all readings, as the published fit has them.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from firedrake import COMM_WORLD

from demos.studies.common import Stopwatch, at_least, command_line, show, write_results

from .data import Experiment, read_experiment
from .figure import draw
from .judging import bands, between, described, finer, scores, splits
from .laws import Laws, VanGenuchten
from .model import Sizes
from .training import diffusivity_like, fitted, networks_like

COLUMNS = {
    "weights": ("weights", "d"),
    "infiltration": ("infiltration", ".4f"),
    "fitted": ("fitted", ".4f"),
    "held_out": ("held out", ".4f"),
    "redistribution": ("together", ".4f"),
}
COST = "runs", "solves", "steps", "seconds", "effective", "inlet", "noise", "evidence"
TOLD = "infiltration", "fitted", "held_out", "seconds"
LARGE = "laws", "column", "posterior"
PUBLISHED = "HYDRUS-1D"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line("redistribution", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help="the folder with the tables of the experiments")
    add("--seed", type=at_least(0), default=0, help="of the initial weights")
    add("--width", type=at_least(1), default=6, help="of each network's hidden layer")
    add("--rounds", type=at_least(1), default=3, help="of fit and evidence")
    add("--iterations", type=at_least(1), default=4, help="Gauss-Newton iterations in a round")
    add("--cell", type=float, default=0.5, help="length of a cell, cm")
    add(
        "--steps",
        type=at_least(2),
        nargs=2,
        default=[50, 20],
        help="open, then shut",
    )
    add("--splits", nargs="+", default=["places", "all", "first days"], help="what is fitted")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args, watch = parse(argv), Stopwatch()
    if COMM_WORLD.size > 1:
        raise SystemExit("redistribution: the column is too small for several ranks, use one.")
    experiment = read_experiment(args.data)
    which = splits(experiment)
    tables = {name: table(experiment, name, which[name], args) for name in args.splits}
    first = tables[args.splits[0]]
    part = which[args.splits[0]]
    network = first["networks"]
    numbers = {
        "models": {name: plain(rows) for name, rows in tables.items()},
        "water": {n: row["column"].water_budget() for n, row in first.items() if "column" in row},
        "finer": {n: finer(first[n], experiment) for n in ("by hand", "networks")},
        "law": described(network),
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "seconds": watch.seconds(),
    }
    tell(tables, numbers)
    networks = {"networks": network["laws"], "by_hand": first["by hand"]["laws"]}
    fields = [network["column"].theta, network["column"].s]
    write_results(args.output, numbers, partial(draw, experiment, first, part), networks, fields)
    return numbers


def table(
    experiment: Experiment, name: str, which: np.ndarray, args: argparse.Namespace
) -> dict[str, dict]:
    """A row for each model, with some readings of the redistribution fitted."""
    print(f"Fitted: {name}", flush=True)
    sizes = Sizes(args.cell, *args.steps)
    rows: dict[str, dict] = {}

    def fit(model: str, laws: Laws) -> None:
        row = fitted(experiment, laws, which, sizes, args.rounds, args.iterations)
        row |= scores(experiment, row["column"].simulate(), which)
        if (experiment.after & ~which).any():
            row["bands"] = bands(row, experiment, which)
        rows[model] = row
        print(f"{model}: { ({key: row[key] for key in TOLD}) }", flush=True)

    hand = VanGenuchten()
    fit("by hand", hand)
    fit("no memory", diffusivity_like(hand, args.width, args.seed))
    fit("networks", networks_like(hand, args.width, args.seed))
    rows[PUBLISHED] = {"weights": 0} | scores(experiment, experiment.published, which)
    if name == "places":
        rows["between places"] = between(experiment, which)
    return rows


def plain(rows: dict[str, dict]) -> dict:
    """What JSON can hold of rows."""
    return {n: {k: v for k, v in row.items() if k not in LARGE} for n, row in rows.items()}


def tell(tables: dict[str, dict], numbers: dict) -> None:
    """The numbers of the study, on the terminal."""
    for name, rows in tables.items():
        laws = {n: row for n, row in rows.items() if "infiltration" in row}
        show(f"RMSE of the water content, fitted: {name}", laws, COLUMNS)
        if "between places" in rows:
            print(f"Straight lines between places: {rows['between places']}")
        for model, row in rows.items():
            if "column" in row:
                known = {key: row[key] for key in COST}
                covered = row.get("bands", {}).get("coverage")
                print(f"{model}: {known}, 90 % bands hold {covered}")
    for key in ("water", "finer", "law"):
        print(f"{key}: {numbers[key]}")
    print(f"{numbers['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
