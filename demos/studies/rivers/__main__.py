"""Flow in a river tree: celerity and the water between gauges, learned together from six gauges.

``python -m demos.studies.rivers`` runs it; ``--help`` lists the options.

d section / dt + d flow / ds = water from the side, on the Severn with the Teme and the Avon as a
branching mesh.  The flow is a network of its section and of the area drained; the water from
areas between the gauges comes from a recurrent network of rain and evaporation, outside of the
equation, which conserves it.  Both are trained together on 1984 to 1999, in parts side by side in
one mesh, and judged on 2000 to 2015.

Protocol: structure and prior were chosen on 1996 to 1999, with 1984 to 1995 fitted; 2000 to 2015
are looked at once, at the end.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from firedrake import COMM_WORLD

from demos.studies.common import Stopwatch, at_least, command_line, show, write_results

from . import synthetic
from .data import ABOVE, read_river
from .figure import draw
from .judging import WHOLE, Cutting, lags, same_day, within
from .laws import FlowLaw, KnotLaw, NetworkLaw, PowerLaw, Proportional, Runoff
from .lstm import alone
from .training import Trained, coverage, fit_errors, predict, scores, train

LSTMS = {"LSTM alone": True, "LSTM that corrects the flow above": False}
WAVES = {
    "kinematic wave, constant celerity": partial(PowerLaw, is_constant=True),
    "kinematic wave, celerity a power of the flow": PowerLaw,
    "kinematic wave, celerity free on 7 knots": KnotLaw,
}
HERE = "network in the river"
LAGS = "linear, lags 0 to 5 days"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line("rivers", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help="the folder with gauges.csv and daily.csv")
    add("--seed", type=at_least(0), default=0, help="of the initial weights")
    add("--width", type=at_least(1), default=8, help="of the law's two hidden layers")
    add(
        "--hidden", type=at_least(1), default=8, help="numbers that the recurrent network remembers"
    )
    add("--iterations", type=at_least(1), default=100, help="of Adam, for each training")
    add("--precision", type=float, default=3.0, help="of the prior of all weights")
    add(
        "--years",
        type=int,
        nargs=5,
        default=[1984, 1995, 1999, 2000, 2015],
        help="first fitted, last before validation, last fitted, first and last held out",
    )
    add("--part", type=at_least(8), default=32, help="days in a part of the record")
    add("--history", type=at_least(1), default=150, help="days that the recurrent network sees")
    add("--floods", type=at_least(1), default=4, help="on the tree whose n is known")
    add("--gauss-newton", type=at_least(1), default=10, help="iterations on that tree")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args, watch = parse(argv), Stopwatch()
    if COMM_WORLD.size > 1:
        raise SystemExit("rivers: the trees are too small for several ranks, use one.")
    cutting = Cutting(read_river(args.data), args.part, history=args.history)
    first, _, last, *held_out = args.years
    fitted = (first, last)
    chosen, validation = validate(cutting, args)
    trained = {
        "network": learn(cutting, args, fitted, chosen),
        "withheld": learn(cutting, args, fitted, cut=("Bewdley",), name="one gauge withheld"),
    } | {name: wave(cutting, law(), fitted, args) for name, law in WAVES.items()}
    series = predictions(cutting, args, trained)
    rows = {
        name: {
            "fitted": scores(cutting, values, fitted),
            "held_out": scores(cutting, values, held_out),
        }
        for name, values in series.items()
    }
    errors, bands = how_sure(cutting, series[HERE], fitted, held_out)
    known = synthetic.learn(args.floods, iterations=args.gauss_newton, seed=args.seed)
    numbers = {
        "rmse": rows,
        "validation": validation,
        "bands": bands,
        "balance": water(cutting, trained["network"], fitted),
        "training": {name: effort(found) for name, found in trained.items()},
        "synthetic": {
            kind: {k: v for k, v in found.items() if k != "net"} for kind, found in known.items()
        },
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "seconds": watch.seconds(),
    }
    tell(numbers)
    networks = {"law": trained["network"].law, "known_n": known["network"]["net"]}
    figure = partial(draw, cutting, trained, series, errors, rows, known, held_out)
    write_results(args.output, numbers, figure, networks, [])
    return numbers


def predictions(
    cutting: Cutting, args: argparse.Namespace, trained: dict[str, Trained]
) -> dict[str, dict[str, np.ndarray]]:
    """For each model the daily means at the gauges from the first fitted year to the last one."""
    first, _, last, _, end = args.years
    river, years = cutting.river, (first, end)
    found = {"same day": same_day(river), LAGS: lags(river, within(river, (first, last)))}
    for name in WAVES:
        found[name] = predict_wave(cutting, trained[name], years)
    for name, is_free in LSTMS.items():
        iterations = 3 * args.iterations // 2
        found[name] = alone(cutting, (first, last), end, is_free, iterations=iterations)
    found[HERE] = predict(cutting, trained["network"], years)
    found["Saxons Lode withheld"] = predict(cutting, trained["withheld"], years, ("Bewdley",))
    found["from the three outer gauges"] = predict(cutting, trained["network"], years, ())
    return found


def how_sure(
    cutting: Cutting, best: dict[str, np.ndarray], fitted: Sequence[int], held_out: Sequence[int]
) -> tuple[dict[str, tuple[float, float]], dict[str, dict[str, float]]]:
    """Errors as they grow with the flow, from the fitted years, and what their bands hold."""
    river, bands = cutting.river, {}
    errors = fit_errors(river.flow, best, within(river, fitted))
    for name, (a, b) in errors.items():
        bands[name] = {"a": a, "b": b}
        for part, years in (("fitted", fitted), ("held_out", held_out)):
            days = within(river, years)
            bands[name][part] = coverage(river.flow[name][days], best[name][days], (a, b))
    return errors, bands


def effort(trained: Trained) -> dict:
    """What a training took, in what JSON can hold."""
    keys = ("solves", "seconds", "weights", "data", "losses")
    return {key: getattr(trained, key) for key in keys}


def learn(
    cutting: Cutting,
    args: argparse.Namespace,
    years: tuple[int, int],
    known: Trained | None = None,
    cut: tuple[str, ...] = WHOLE,
    name: str = "network",
) -> Trained:
    """Train law and runoff on years; from what is known on, with a third of the rate."""
    print(f"{name}, {years[0]} to {years[1]}:", flush=True)
    rows = cutting.rows(*years)
    inputs = cutting.inputs(rows, cut)
    runoff = Runoff(inputs, cutting.history, args.hidden, args.seed)
    law: FlowLaw = NetworkLaw(args.width, args.seed)
    trained = Trained(law, runoff)
    iterations, rate = args.iterations, 2e-2
    if cut != WHOLE:
        iterations = max(1, args.iterations // 2)
    if known is not None:
        runoff.load_state_dict(known.runoff.state_dict())
        law.load_state_dict(known.law.state_dict())
        trained.solves, trained.seconds = known.solves, known.seconds
        iterations, rate = max(1, args.iterations // 2), 7e-3
    rivers = cutting.model(law, runoff, rows, cut)
    return train(cutting, trained, rivers, rows, iterations, rate, args.precision)


def validate(cutting: Cutting, args: argparse.Namespace) -> tuple[Trained, dict]:
    """The same without the last fitted years, judged on them, beside the lags."""
    first, before, last = args.years[:3]
    found = learn(cutting, args, (first, before))
    years = (before + 1, last)
    days = within(cutting.river, (first, before))
    rows = {
        HERE: scores(cutting, predict(cutting, found, years), years),
        LAGS: scores(cutting, lags(cutting.river, days), years),
    }
    print(f"RMSE in {years[0]} to {years[1]}, m3/s: {rows}", flush=True)
    return found, rows


def wave(
    cutting: Cutting, law: FlowLaw, years: tuple[int, int], args: argparse.Namespace
) -> Trained:
    """A kinematic wave with a law of a few numbers; water between gauges in proportion."""
    print(f"{type(law).__name__}:", flush=True)
    rows = cutting.rows(*years)
    trained = Trained(law, Proportional(cutting.river.from_above(WHOLE)[:, rows]))
    rivers = cutting.model(law, trained.runoff, rows)
    iterations = min(args.iterations, 15)
    return train(cutting, trained, rivers, rows, iterations, 0.0, None, "L-BFGS")


def predict_wave(
    cutting: Cutting, trained: Trained, years: tuple[int, int]
) -> dict[str, np.ndarray]:
    rows = cutting.rows(*years)
    runoff = Proportional(cutting.river.from_above(WHOLE)[:, rows])
    runoff.load_state_dict(trained.runoff.state_dict())
    rivers = cutting.model(trained.law, runoff, rows)
    series = cutting.series(rows, rivers.simulate(tuple(ABOVE)), years[0])
    return dict(zip(ABOVE, series, strict=True))


def water(cutting: Cutting, trained: Trained, years: tuple[int, int]) -> dict[str, float]:
    rows = cutting.rows(*years)
    return cutting.model(trained.law, cutting.seeing(trained.runoff, rows), rows).balance()


def tell(numbers: dict) -> None:
    """The numbers of the study, on the terminal."""
    for part in ("fitted", "held_out"):
        rows = {name: row[part] for name, row in numbers["rmse"].items()}
        show(f"RMSE {part}, m3/s", rows, {name: (name, ".2f") for name in ABOVE})
    for name, band in numbers["bands"].items():
        print(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in band.items()))
    print(
        "Water, millions of m3: " + ", ".join(f"{v:.6g} {k}" for k, v in numbers["balance"].items())
    )
    for kind, row in numbers["synthetic"].items():
        print(f"Known n, {kind}: " + ", ".join(f"{v:.3g} {k}" for k, v in row.items()))
    print(f"{numbers['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
