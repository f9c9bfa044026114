"""State estimation: an initial state and a law of friction from tide gauges, by 4D-Var.

``python -m demos.studies.state_estimation`` runs it; ``--help`` lists the options.

Shallow water in a tidal channel.  The true Manning's n depends on the depth: plants make shallow
water rough.  Six tide gauges and two current meters are read for one tide.  What is not known is
the state when the readings begin, and n.  Both are found together, by Gauss and Newton's method
with a prior of the initial state, and judged at places and tides that were not observed.

Protocol: the truth runs on a finer mesh with shorter steps.  Precisions of all priors, the size of
the errors and the network's width are those of the largest evidence.  What is held out is looked at
once, at the end.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from firedrake import COMM_WORLD

import femnn
from demos.studies.common import Stopwatch, at_least, command_line, rms, show, write_results

from .figure import draw
from .fits import LAWS, LEARNED, Comparison
from .identifiability import what_is_told
from .laws import Network, Vegetated, band_of_law
from .model import HOUR
from .twin import Times, Twin, first_guess, true_forcing

DEPTHS = np.linspace(0.5, 5.0, 91)  # m, at which laws are compared
PARTS = (12, 4, 2, 1)  # of the window, in which readings are taken alone
LARGE = ("law", "assimilation", "posterior", "spectrum", "run", "visited")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line("state_estimation", __doc__)
    add = parser.add_argument
    add("--seed", type=at_least(0), default=0, help="of the readings' errors and the weights")
    add("--cells", type=at_least(4), default=12, help="of the model's mesh")
    add("--step", type=at_least(1), default=900, help="of the model, in s")
    add("--finer", type=at_least(1), default=6, help="the truth's mesh and steps, so much finer")
    add("--widths", type=at_least(1), nargs="+", default=[4, 8], help="to choose from")
    add("--rounds", type=at_least(1), default=6, help="of fit and evidence")
    add("--iterations", type=at_least(1), default=3, help="Gauss-Newton iterations in a round")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, times: Times | None = None) -> dict:
    args, watch, times = parse(argv), Stopwatch(), times or Times()
    if COMM_WORLD.size > 1:
        raise SystemExit("state_estimation: the channel is too small for several ranks, use one.")
    if times.every % args.step or times.window % args.step:
        raise SystemExit(
            f"state_estimation: --step {args.step} does not divide the {times.every:g} s between "
            f"readings and the window of {times.window:g} s: take 450, 900 or the like."
        )
    cells, step = args.finer * args.cells, args.step / args.finer
    twin = Twin(times, true_forcing(times), args.seed, cells, step)
    print(f"truth: {watch.seconds():.0f} s, depths {twin.visited}", flush=True)
    background = first_guess(times, args.cells, args.step)
    comparison = Comparison(twin, background, args.cells, args.step, args.rounds, args.iterations)
    rows, tried = fit_all(comparison, args)
    for row in rows.values():
        comparison.judge(row)
    numbers = numbers_of(rows, twin) | {"tried": tried, "seconds": watch.seconds()}
    numbers["options"] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    tell(rows, numbers)
    figure = partial(draw, twin, rows, LEARNED, DEPTHS)
    learned = rows[LEARNED]
    write_results(
        args.output, numbers, figure, {"law": learned["law"]}, learned["assimilation"].fields
    )
    return numbers


def fit_all(comparison: Comparison, args: argparse.Namespace) -> tuple[dict, list[dict]]:
    """All models, and what was tried of the network's width, which the evidence chooses."""
    rows, tried = {}, []
    for name, law in LAWS.items():
        if name != LEARNED:
            rows[name] = comparison.fit(name, law())
            continue
        fits = [comparison.fit(f"{name}, width {w}", Network(w, args.seed)) for w in args.widths]
        for width, fit in zip(args.widths, fits, strict=True):
            keys = ("log_evidence", "effective", "rounds", "converged", "seconds")
            tried.append({"width": width} | {k: fit[k] for k in keys})
        rows[name] = fits[int(np.argmax([fit["log_evidence"] for fit in fits]))]
    return rows, tried


def numbers_of(rows: dict[str, dict], twin: Twin) -> dict:
    """What JSON can hold of the rows, and what was asked of the learned law."""
    learned = rows[LEARNED]
    h = depths_of(twin)["visited"]
    return {
        "rows": {n: {k: v for k, v in r.items() if k not in LARGE} for n, r in rows.items()},
        "depths": twin.visited,
        "law": {n: law_errors(r, twin) for n, r in rows.items()},
        "band": band(learned, twin),
        "spectrum": learned["spectrum"].tolist(),
        "windows": {
            f"{end / HOUR:g} h": what_is_told(learned["assimilation"].until(end), h)
            for end in windows(twin.times)
        },
        "water": learned["assimilation"].channel.water_budget(0.0, twin.times.end),
    }


def windows(times: Times) -> list[float]:
    """Ends of shorter windows in s, each at a reading, and that of the whole one."""
    n = round(times.window / times.every)
    return [times.every * max(1, n // part) for part in PARTS]


def depths_of(twin: Twin) -> dict[str, np.ndarray]:
    """Depths that the truth has in the window, and those beyond."""
    first, last = np.searchsorted(DEPTHS, twin.visited["window"])
    parts = {"visited": slice(first, last), "shallower": slice(first), "deeper": slice(last, None)}
    return {name: DEPTHS[part] for name, part in parts.items()}


def law_errors(row: dict, twin: Twin) -> float:
    """Relative error of n over the depths of the window, root mean square of its logarithm."""
    h = depths_of(twin)["visited"]
    return rms(np.log(femnn.evaluate(row["law"], h) / femnn.evaluate(Vegetated(), h)))


def band(row: dict, twin: Twin) -> dict[str, float]:
    """The part of the true law that is in the 90 % band, where depths were visited and beyond."""
    found = {}
    for name, h in depths_of(twin).items():
        truth = femnn.evaluate(Vegetated(), h)
        mean, lower, upper = band_of_law(row["posterior"], row["law"], h)
        found[name] = float(np.mean((lower <= truth) & (truth <= upper)))
        found[f"{name}, error"] = rms(np.log(mean / truth))
        found[f"{name}, half width"] = rms(0.5 * np.log(upper / lower))
    return found


def tell(rows: dict[str, dict], numbers: dict) -> None:
    """The numbers of the study, on the terminal."""
    for quantity in (
        "level",
        "discharge",
        "level_coverage",
        "discharge_coverage",
        "reading_coverage",
    ):
        table = {n: {k: s[quantity] for k, s in r["scores"].items()} for n, r in rows.items()}
        columns = {k: (k, ".3f") for k in next(iter(table.values()))}
        show(quantity, table, columns)
    show("cost", rows, {"solves": ("PDE solves", "d"), "seconds": ("seconds", ".0f")})
    for key in ("law", "band", "windows", "depths", "water"):
        for name, value in numbers[key].items():
            print(f"{key}, {name}: {value}")
    print(f"{numbers['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
