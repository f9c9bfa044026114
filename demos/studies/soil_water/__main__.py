"""Water in soil columns: theta(h) and K(h) as networks in Richards' equation, and a rival PINN.

``python -m demos.studies.soil_water`` runs it; ``--help`` lists the options.

A column of soil dries from above; heads are measured at five depths.  theta(h) and K(h), monotone
networks, are fitted to the heads at 1, 4.895 and 9 cm, with prior and errors of the largest
evidence, and judged at 3 and 7 cm.  Beside them van Genuchten's and Mualem's laws, fitted in the
same way, and a physics-informed network with the same data and the same networks.  Then both ways
on steady flow with a known truth: K of place and K of the head from noisy heads at stations.
"""

import argparse
from functools import partial
from pathlib import Path

from firedrake import COMM_WORLD

from demos.studies.common import Stopwatch, at_least, command_line, show, write_results

from .darcy_pinn import table
from .data import read_evaporation
from .evaporation import run
from .figure import draw

COLUMNS = {
    "fitted": ("fitted, cm", ".2f"),
    "held_out": ("held out, cm", ".2f"),
    "log10_held_out": ("log10 held out", ".4f"),
}
LARGE = ("laws", "law", "column", "posterior", "heads")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line("soil_water", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help="the folder with the tables of the experiment")
    add("--seed", type=at_least(0), default=0, help="of the initial weights")
    add("--width", type=at_least(1), default=6, help="of each law's hidden layer")
    add("--rounds", type=at_least(1), default=6, help="of fit and evidence")
    add("--iterations", type=at_least(1), default=6, help="Gauss-Newton iterations in a round")
    add("--cells", type=at_least(2), default=20, help="of the column")
    add("--substeps", type=at_least(1), default=1, help="between two readings")
    add("--draws", type=at_least(2), default=10, help="of weights from the posterior")
    add("--adam", type=at_least(1), default=1500, help="iterations of the PINN's training")
    add("--lbfgs", type=at_least(1), default=1500, help="iterations that follow")
    weights = [10.0, 100.0, 1000.0]
    add("--pinn-weights", type=float, nargs="+", default=weights, help="to choose from")
    add("--no-darcy", action="store_true", help="leave out steady flow")
    add("--stations", type=at_least(5), nargs="+", default=[20, 40, 80], help="of K(x, y)")
    add("--darcy-cells", type=at_least(2), default=12, help="along each side")
    add("--darcy-adam", type=at_least(1), default=1000, help="iterations of the PINNs there")
    add("--darcy-lbfgs", type=at_least(1), default=1000, help="iterations that follow")
    weights = [1.0, 100.0, 10000.0]
    add("--darcy-weights", type=float, nargs="+", default=weights, help="the same there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args, watch = parse(argv), Stopwatch()
    if COMM_WORLD.size > 1:
        raise SystemExit("soil_water: the column is too small for several ranks, use one.")
    experiment = read_evaporation(args.data)
    rows = run(experiment, args)
    steady = [] if args.no_darcy else table(args)
    numbers = {
        "models": {name: plain(row) for name, row in rows.items()},
        "steady flow": [
            plain(row) | {way: plain(row[way]) for way in ("femnn", "PINN")} for row in steady
        ],
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "seconds": watch.seconds(),
    }
    tell(rows, numbers)
    networks = {"laws": rows["networks"]["laws"], "laws_of_the_pinn": rows["PINN"]["laws"]}
    figure = partial(draw, experiment, rows)
    write_results(args.output, numbers, figure, networks, [rows["networks"]["column"].h])
    return numbers


def plain(row: dict) -> dict:
    """What JSON can hold of a row."""
    kept = {k: v for k, v in row.items() if k not in LARGE}
    if "bands" in kept:
        kept["bands"] = {k: v for k, v in kept["bands"].items() if k != "std"}
    return kept | ({"visited": list(row["visited"])} if "visited" in row else {})


def tell(rows: dict[str, dict], numbers: dict) -> None:
    """The numbers of the study, on the terminal."""
    show("RMSE of heads", rows, COLUMNS)
    for name, row in rows.items():
        if "water" in row:
            print(f"Water of {name}, cm: {row['water']}")
        if "runs" in row:
            print(
                f"{name}: {row['runs']} runs of the model, {row['solves']} linear systems, "
                f"{row['seconds']:.0f} s, {row['effective']:.1f} effective parameters of "
                f"{row['weights']}, log evidence {row['evidence'][-1]:.1f}, "
                f"noise {row['noise']:.4f}"
            )
    known = numbers["models"]["networks"]
    print(f"Bands at the held-out depths: {known['bands']}")
    print(f"Identified: {known['identified']}")
    print(f"Errors of the steps: {known['of the steps']}, visited {known['visited']}")
    print(f"PINN: {rows['PINN']['tried']}, then {rows['PINN']['seconds']:.0f} s")
    print(f"{numbers['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
