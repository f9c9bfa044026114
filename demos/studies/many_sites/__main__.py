"""Soil heat at many stations: diffusivities from what is known of each place, one network for all.

``python -m demos.studies.many_sites`` runs it; ``--help`` lists the options.

C dT/dt = d/dz (C D dT/dz) between the thermometers at 5 and 100 cm, whose temperatures are given;
those at 10, 20 and 50 cm are the data.  log D at 10 and 60 cm is what a network says of a station's
attributes, and a rest at each fitted station whose size the evidence finds: what attributes do not
say.  Baselines have the same columns, steps and optimiser.  At last a surrogate of the model is
fitted to its values and gradients, and the network is trained through it.

Protocol: every second station is held out and looked at once, at the end.  What the network takes,
and whether it has a hidden layer, is chosen by the evidence; so are its prior, the size of the
rest, and that of the errors.

On several ranks each has a part of the stations (``femnn.ensemble``) in all these fits.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from firedrake import COMM_WORLD, Constant

import femnn
from demos.studies.common import Stopwatch, at_least, command_line, show, write_results

from .comparison import Training, compare
from .data import Record, read_record
from .figure import draw
from .judging import bands, judge, straight_line
from .laws import ByAttributes, EachStation, FromLag, Law, OfWater, OneForAll
from .model import Columns, spread, steps_of

COLUMNS = {
    "weights": ("weights", "d"),
    "fitted": ("fitted, K", ".3f"),
    "held_out": ("held out, K", ".3f"),
    "steps": ("model steps", "d"),
    "seconds": ("seconds", ".0f"),
}
LARGE = ("law", "posterior", "prior", "model", "samples")
LAWS = ["nothing:0", "lag:0", "place:0", "place+lag:0", "place+lag:4"]
START = {"noise": 0.2, "precision": 1.0}  # of fits with evidence


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line("many_sites", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help="the folder with daily.csv and stations.csv")
    add("--seed", type=at_least(0), default=0, help="of the initial weights")
    add("--every", type=at_least(1), default=10, help="days between the data that are fitted")
    add("--laws", nargs="+", default=LAWS, help="to choose of: attributes:width of a hidden layer")
    add("--rounds", type=at_least(1), default=6, help="of fit and evidence")
    add("--iterations", type=at_least(1), default=3, help="Gauss-Newton iterations in a round")
    add("--draws", type=at_least(2), default=30, help="of laws, for bands")
    add("--samples", type=at_least(2), default=32, help="of the model, for the surrogate")
    add("--reach", type=float, default=1.5, help="of the samples around one profile, in log D")
    add("--epochs", type=at_least(1), default=1500, help="L-BFGS iterations of the surrogate")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args, watch = parse(argv), Stopwatch()
    record = read_record(args.data)
    rows = hand_made(record, args)
    tried = choose(record, args)
    rows["attributes"] = max(tried, key=lambda t: t["log_evidence"])
    training = Training(record, rows["attributes"], args.every, args.seed)
    centre = rows["one profile"]["law"].theta_of([0])[0]
    through = compare(training, centre, args.reach, args.samples, args.epochs)
    rows["attributes, by the surrogate"] = through.pop("row")
    for row in (*rows.values(), *tried):
        row |= judge(record, row["law"])
    sure = bands(record, rows["attributes"], args.draws)
    columns = Columns(record, rows["attributes"]["law"], record.fitted)
    budget = columns.heat_budget()
    numbers = {
        "straight_line": straight_line(record),
        "rmse": {name: slim(row) for name, row in rows.items()},
        "tried": [slim(t) for t in tried],
        "known_by_attributes": known_by_attributes(tried, rows["attributes"]),
        "bands": slim(sure),
        "surrogate": through,
        "heat_budget": budget,
        "theta": {
            name: rows[key]["law"].theta_of(range(len(record))).tolist()
            for name, key in (("own", "a profile for each station"), ("attributes", "attributes"))
        },
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "seconds": watch.seconds(),
    }
    if COMM_WORLD.rank == 0:
        tell(rows, numbers)
    figure = partial(draw, record, rows, sure, through)
    networks = {"attributes": rows["attributes"]["law"]}
    write_results(args.output, numbers, figure, networks, [])
    return numbers


def slim(row: dict) -> dict:
    """What of a row JSON can hold."""
    return {k: v for k, v in row.items() if k not in LARGE}


def say(*what) -> None:
    if COMM_WORLD.rank == 0:
        print(*what, flush=True)


def baselines(record: Record) -> dict[str, tuple[Law, list[int]]]:
    """Laws without a network, and the stations that each is fitted to; the last two to all."""
    water, n = record.water[record.fitted], len(record)
    lag = ByAttributes(record.standard("lag"), record.fitted, with_rest=False)
    everyone = list(range(n))
    return {
        "one diffusivity": (OneForAll(1), record.fitted),
        "of the water content": (OfWater(water.min(), water.max()), record.fitted),
        "one profile": (OneForAll(2), record.fitted),
        "linear in the lag": (lag, record.fitted),
        "a diffusivity for each station": (EachStation(n, 1), everyone),
        "a profile for each station": (EachStation(n, 2), everyone),
    }


def hand_made(record: Record, args: argparse.Namespace) -> dict[str, dict]:
    """The baselines, by least squares."""
    apart = float(record.depths[-1] - record.depths[0])
    formula = {"law": FromLag(record.lag, apart), "weights": 0, "steps": 0, "seconds": 0.0}
    rows = {"formula of the lag": formula}
    for name, (law, stations) in baselines(record).items():
        Jhat = spread(record, law, stations, args.every)
        result = femnn.fit(Jhat, "gauss-newton", maxiter=25, ftol=1e-5, progress=False)
        say(f"{name}: {result}")
        rows[name] = {
            "law": law,
            "weights": len(femnn.Weights.of(law)),
            "steps": steps_of(result, record),
            "seconds": result.seconds,
        }
    return rows


def choose(record: Record, args: argparse.Namespace) -> list[dict]:
    """Networks of several attributes, each fitted with evidence."""
    tried = []
    for knows, width in (text.split(":") for text in args.laws):
        law = ByAttributes(record.standard(knows), record.fitted, int(width), args.seed)
        row = {"knows": knows, "width": int(width)} | with_evidence(record, law, args)
        say(f"{knows}, width {width}: " + told(row))
        tried.append(row)
    return tried


def told(row: dict) -> str:
    upper, lower = row["rest_std"]
    return (
        f"log evidence {row['log_evidence']:.1f}, rest {upper:.2f} and {lower:.2f}, "
        f"{row['effective']:.1f} of {row['weights']} weights, errors {row['noise']:.3f} K, "
        f"{row['seconds']:.0f} s"
    )


def with_evidence(record: Record, law: ByAttributes, args: argparse.Namespace) -> dict:
    """Fit a law of attributes; prior, size of the rest and errors from the evidence."""
    watch, noise = Stopwatch(), Constant(START["noise"], name="noise")
    prior = femnn.GaussianPrior(femnn.Weights.of(law), START["precision"])
    Jhat = spread(record, law, record.fitted, args.every, noise, prior)
    result = femnn.fit_with_evidence(
        Jhat, rounds=args.rounds, maxiter=args.iterations, progress=False
    )
    precision = dict(zip(prior.names, prior.precision, strict=True))
    return {
        "law": law,
        "prior": prior,
        "posterior": result.posterior,
        "weights": len(femnn.Weights.of(law)),
        "log_evidence": result.history[-1],
        "history": result.history,
        "converged": result.converged,
        "effective": result.posterior.effective_parameters,
        "noise": float(noise),
        "precision": {k: float(v) for k, v in precision.items()},
        "rest_std": [precision[f"{k}_rest"] ** -0.5 for k in ("upper", "lower")],
        "steps": steps_of(result, record),
        "seconds": watch.seconds(),
    }


def known_by_attributes(tried: list[dict], chosen: dict) -> list[float]:
    """Which part of the variance of log D between stations attributes say, at each knot."""
    nothing = next((t for t in tried if t["knows"] == "nothing"), None)
    if nothing is None:
        return []
    ratios = np.array(chosen["rest_std"]) / np.array(nothing["rest_std"])
    return (1 - ratios**2).tolist()


def tell(rows: dict[str, dict], numbers: dict) -> None:
    """The numbers of the study, on the terminal."""
    show("RMSE at 10, 20 and 50 cm", rows, COLUMNS)
    line, budget = numbers["straight_line"], numbers["heat_budget"]
    print(f"straight line: {line['fitted']:.3f}, held out {line['held_out']:.3f}")
    print(f"known by attributes at 10 and 60 cm: {numbers['known_by_attributes']}")
    for row in numbers["tried"]:
        print(f"{row['knows']}, width {row['width']}: {row['fitted']:.3f}, {row['held_out']:.3f}")
    for name, table in numbers["surrogate"]["surrogates"].items():
        for row in table:
            print(f"surrogate, {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
    print(", ".join(f"{k} {v}" for k, v in numbers["surrogate"]["model"].items()))
    sure = {k: v for k, v in numbers["bands"].items() if isinstance(v, float)}
    print(f"bands at the held-out stations: {sure}")
    print("Heat, MJ/m2: " + ", ".join(f"{v:.4g} {k}" for k, v in budget.items()))
    print(f"{numbers['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
