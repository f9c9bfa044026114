"""Hydraulic tomography: the conductivity and a river's law from heads in pumping tests.

``python -m demos.studies.tomography`` runs it; ``--help`` lists the options.  Under ``mpiexec`` the
tests are spread over the ranks (``--unknown network``), or each is computed on all of them
(``--unknown field``).

Steady flow in 1 km x 1 km x 60 m: two sandy layers with clay between them, thrown by a fault whose
core is tight, and a river above with a clogged bed.  In each test another well is pumped, and heads
are read in the same ports.  What is to be found is log K, by a network of place and layer or as a
field with a prior, and how much the river gives for a difference of stage and head.  The truth is
known here: the readings are made with elements of second order on another mesh.

Protocol: the first tests are fitted; two more, at other wells, are predicted and compared once.
What precisions the network's priors have is decided by the evidence.
"""

from __future__ import annotations

import argparse
import signal
from typing import NoReturn

import matplotlib.pyplot as plt
import numpy as np
from firedrake import COMM_WORLD
from firedrake.petsc import PETSc

import femnn
from demos.studies.common import at_least, command_line, write_results

from .aquifer import Campaign, campaign, make_mesh
from .figure import draw, maps
from .inversion import Costs, Inversion, heads
from .judging import Conductivity, judge_conductivity, judge_leakage, predict, visited
from .model import Site, read_truth
from .unknowns import Aquifer, FieldAquifer, LayeredAquifer, NetworkAquifer

GO_ON = 85  # the exit status where the training was ended from outside: start again with --resume


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_line("tomography", __doc__)
    add = parser.add_argument
    add("--unknown", choices=("network", "field"), default="network", help="what log K is")
    add("--cells", type=at_least(2), default=16, help="along each side")
    add("--layers", type=at_least(3), default=6, help="of cells, from below to the top")
    add("--truth", type=at_least(2), nargs=2, default=[14, 12], help="the same, for the readings")
    add("--tests", type=at_least(1), default=8, help="pumping tests that are fitted")
    add("--wells", type=at_least(2), default=12, help="with two ports each")
    add("--width", type=at_least(1), default=12, help="of the network's two hidden layers")
    add("--iterations", type=at_least(1), default=20, help="Gauss-Newton iterations at most")
    add("--rounds", type=at_least(0), default=6, help="of fit and evidence, for a network")
    add("--draws", type=at_least(2), default=100, help="of the posterior, for bands of log K")
    add("--seed", type=at_least(0), default=0, help="of wells, noise and initial weights")
    add("--resume", action="store_true", help="go on from what --output holds of a training")
    add("--forward", action="store_true", help="solve one test only, and tell time and memory")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args, costs = parse(argv), Costs()
    found = campaign(args.tests, args.wells, args.seed)
    if args.forward:
        return forward(args, found, costs)
    with costs.of("readings"):
        if COMM_WORLD.rank == 0:
            read_truth(found, args.truth, args.seed)
        found.readings = COMM_WORLD.bcast(found.readings)
    site = Site(make_mesh(args.cells, args.layers, COMM_WORLD))
    layered = fitted(found, LayeredAquifer(), site, args, costs, "layers")
    inversion = fitted(found, unknown(site, args), site, args, costs, args.unknown)
    with costs.of("posterior"):
        posterior = inversion.posterior(args.rounds if args.unknown == "network" else 0)
    say(f"{posterior}")
    with costs.of("judging"):
        numbers, figure = judge(inversion, posterior, layered, args)
    numbers |= {"seconds": costs.seconds, "MiB": costs.memory}
    tell(numbers)
    networks, head = inversion.aquifer.networks, inversion.heads(site, found.tests[1])
    write_results(args.output, numbers, lambda: figure, networks, [head])
    return numbers


def unknown(site: Site, args: argparse.Namespace) -> Aquifer:
    """What is to be found."""
    if args.unknown == "field":
        return FieldAquifer(site.space, args.seed)
    return NetworkAquifer(args.width, args.seed)


def fitted(
    found: Campaign,
    aquifer: Aquifer,
    site: Site,
    args: argparse.Namespace,
    costs: Costs,
    name: str,
) -> Inversion:
    """Fit one kind of aquifer; what is learned is kept in a folder."""
    together = args.unknown == "field"
    with costs.of(f"recording, {name}"):
        inversion = Inversion(found, aquifer, (args.cells, args.layers), site, together)
    folder = None if name == "layers" else args.output / "training"
    with costs.of(f"fit, {name}"):
        result = inversion.fit(args.iterations, folder, args.resume)
    say(f"{name}: {result}")
    if result.reason == "preempted":
        raise SystemExit(GO_ON)
    return inversion


def judge(
    inversion: Inversion,
    posterior: femnn.LaplacePosterior,
    layered: Inversion,
    args: argparse.Namespace,
) -> tuple[dict, plt.Figure]:
    """All numbers of the study, and its figure."""
    conductivity, solves = Conductivity(inversion), inversion.solves
    std, seen = conductivity.spread(posterior, args.draws), visited(inversion)
    predicted = predict(inversion, posterior)
    numbers = {
        "found": judge_conductivity(conductivity, std)
        | judge_leakage(inversion, posterior, seen)
        | predicted.judge(),
        "guess": {"by layer": conductivity.of_guess()},
        "layers": judge_conductivity(Conductivity(layered))
        | {"held out": float(np.sqrt(np.mean(layered.errors() ** 2)))},
        "effective parameters": posterior.effective_parameters,
        "entries": len(posterior.mean),
        "data": posterior.n_data,
        "chi_squared": posterior.chi_squared,
        "solves": {"linear": solves.linear, "forward": solves.forward, "tangent": solves.tangent},
        "balance, m3/d": inversion.balance(inversion.campaign.tests[1]),
        "unknowns of a solve": inversion.site.space.dim(),
        "ranks": COMM_WORLD.size,
    }
    return numbers, draw(inversion, posterior, maps(conductivity), seen, predicted)


def forward(args: argparse.Namespace, found: Campaign, costs: Costs) -> dict:
    """One test by untrained networks, on all ranks, of any size."""
    with costs.of("mesh"):
        site = Site(make_mesh(args.cells, args.layers, COMM_WORLD))
    with costs.of("one test"):
        heads(NetworkAquifer(args.width, args.seed), site, found.tests[1])
    numbers = {"unknowns of a solve": site.space.dim(), "ranks": COMM_WORLD.size}
    numbers |= {"seconds": costs.seconds, "MiB": costs.memory}
    tell(numbers)
    return numbers


def say(text: str) -> None:
    PETSc.Sys.Print(text)


def tell(numbers: dict) -> None:
    for name, value in numbers.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k}: {_short(v)}" for k, v in value.items())
        say(f"{name}: {_short(value)}")


def _short(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def leave(*_: object) -> NoReturn:
    """The time is over while nothing is trained: begin again from what was reached."""
    raise SystemExit(GO_ON)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, leave)
    main()
