"""Heat flow in soil that freezes: a hand-made law and networks, fitted by the same protocol.

``python -m demos.studies.soil`` runs it; ``--help`` lists the options.

d/dt H(T, z) = d/dz (k(T, z) dT/dz) from 5 to 225 cm.  The top and bottom thermometers are boundary
values, the twelve between are the data.  The water that freezes is not measured and differs
between years: the latent part of H has a factor w for each winter, with a log-normal prior.

Protocol: each law is fitted to the first two winters by Gauss and Newton's method, with precisions
of its weights by the evidence and errors that have a memory.  Of the networks that of the largest
evidence is taken.  The last two winters are looked at once, at the end; what their water is
is not known, so predictions are means over its prior and the law's posterior.

What was devised with the last two winters in view, in an earlier study: the factor w itself, the
parts of the record, and the hand-made law's and the networks' forms.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from firedrake import COMM_WORLD

from demos.studies.common import Stopwatch, at_least, command_line, show, write_results

from .data import Winters, read_record
from .figure import draw
from .fitting import Protocol
from .judging import Judge
from .laws import ByDepth, HandLaws, HybridLaws, Laws, NetworkLaws

HAND = "hand-made law"
NETWORKS = "networks"
ONE_WATER = ", one water"
Kinds = dict[str, tuple[Callable[..., Laws], bool]]  # with the winters' own water or without
HAND_MADE: Kinds = {
    "constant properties": (partial(ByDepth, (1.0,)), False),
    "k by depth": (ByDepth, False),
    HAND + ONE_WATER: (HandLaws, False),
    HAND: (HandLaws, True),
}
LEARNED: Kinds = {
    NETWORKS + ONE_WATER: (NetworkLaws, False),
    NETWORKS: (NetworkLaws, True),
    "hand-made law, varied by networks": (HybridLaws, True),
}
COLUMNS = {
    "numbers": ("numbers", "d"),
    "effective": ("effective", ".1f"),
    "log_evidence": ("log evidence", ".1f"),
    "fitted": ("fitted", ".3f"),
    "held_out": ("held out", ".3f"),
    "usual_water": ("with w = 1", ".3f"),
    "with_best_water": ("with best w", ".3f"),
    "systems": ("systems", "d"),
    "seconds": ("seconds", ".0f"),
}
TRIED = ("log_evidence", "effective", "converged", "log_w", "systems", "seconds")
LARGE = ("laws", "columns", "posterior", "model", "std", "measured")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line("soil", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help="the CSV file of hourly soil temperatures at Fargo")
    add("--seeds", type=at_least(0), nargs="+", default=[0, 1], help="of networks to choose of")
    add("--spread", type=float, default=0.3, help="standard deviation of log w")
    add("--parts", type=at_least(1), default=6, help="of each fitted winter, side by side")
    add("--forgotten", type=at_least(0), default=21, help="days that parts run before they count")
    add("--every", type=at_least(1), default=5, help="days between the data that are fitted")
    add("--passes", type=at_least(1), default=3, help="of fits, with the errors found between")
    add("--rounds", type=at_least(1), default=6, help="of fit and evidence in the last pass")
    add("--iterations", type=at_least(1), default=3, help="Gauss-Newton iterations in a round")
    add("--draws", type=at_least(2), default=8, help="of laws from the posterior, for bands")
    add("--waters", type=at_least(1), default=9, help="of a winter's water, with each")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args, watch = parse(argv), Stopwatch()
    if COMM_WORLD.size > 1:
        raise SystemExit("soil: 27 nodes are too few for several ranks, use one.")
    winters = Winters(read_record(args.data))
    record = winters.record
    print(f"{len(record)} days from {record.first_day}. {record.gaps}", flush=True)
    cut = args.parts, args.forgotten, args.every
    protocol = Protocol(winters, args.spread, *cut, args.passes, args.rounds, args.iterations)
    rows = fit_all(protocol, args.seeds)
    free = protocol.fit("spread of w by the evidence", HandLaws(), True, spread_known=False)
    judge = Judge(winters, args.draws, args.waters)
    for row in rows.values():
        judge.judge(row)
    best = rows[NETWORKS]
    numbers = {
        "gaps": record.gaps,
        "models": {name: slim(row) for name, row in rows.items()},
        "spread_by_evidence": slim(free),
        "heat_budget": {n: rows[n]["columns"].heat_budget() for n in (HAND, NETWORKS)},
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "seconds": watch.seconds(),
    }
    tell(rows, numbers)
    networks = {"networks": best["laws"], "hand_made": rows[HAND]["laws"]}
    figure = partial(draw, winters, rows)
    write_results(args.output, numbers, figure, networks, [best["columns"].T])
    return numbers


def fit_all(protocol: Protocol, seeds: list[int]) -> dict[str, dict]:
    """All laws; of the networks the seed with the largest evidence, of others the first."""
    rows = {}
    for name, (kind, with_water) in HAND_MADE.items():
        rows[name] = protocol.fit(name, kind(), with_water)
    for name, (kind, with_water) in LEARNED.items():
        fits = []
        for seed in seeds if name == NETWORKS else seeds[:1]:
            fits.append(protocol.fit(f"{name}, seed {seed}", kind(seed), with_water))
        tried = [{key: fit[key] for key in TRIED} for fit in fits]
        rows[name] = max(fits, key=lambda fit: fit["log_evidence"]) | {"tried": tried}
    return rows


def slim(row: dict) -> dict:
    """What of a row JSON can hold."""
    return {k: v for k, v in row.items() if k not in LARGE}


def tell(rows: dict[str, dict], numbers: dict) -> None:
    """The numbers of the study, on the terminal."""
    show("RMSE at the twelve inner thermometers, deg C", rows, COLUMNS)
    for name, row in rows.items():
        for season in ("all", "cold", "warm"):
            found = ", ".join(f"{k} {v:.3f}" for k, v in row[season].items() if k != "n")
            print(f"{name}, held out, {season}: {found}")
    for name, budget in numbers["heat_budget"].items():
        print(f"Heat by {name}, MJ/m2: " + ", ".join(f"{v:.4g} {k}" for k, v in budget.items()))
    print(f"Spread of log w by the evidence: {numbers['spread_by_evidence']['spread']:.2f}")
    print(f"{numbers['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
