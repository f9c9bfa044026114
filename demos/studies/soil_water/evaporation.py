"""The evaporation experiment: what is fitted, what its rival does, and how they are judged."""

import argparse

import numpy as np
from firedrake import ConvergenceError

from demos.studies.common import rms

from .data import Evaporation
from .judging import bands, identified, scores, visited
from .laws import Laws, VanGenuchten
from .model import Column
from .pinn import Pinn
from .training import copied, fitted, networks_like

FITTED, HELD_OUT = (1.0, 4.895, 9.0), (3.0, 7.0)  # cm
BY_LAWS = "log10, its laws solved"
VALIDATED = 4.895  # left out of the fitted depths where a weight is chosen


def run(experiment: Evaporation, args: argparse.Namespace) -> dict[str, dict]:
    """A row for each model."""
    sizes = {"cells": args.cells, "substeps": args.substeps}
    rows, begun = both_laws(experiment, args, sizes)
    for row in rows.values():
        row["heads"] = row["column"].simulate()
        row["water"] = row["column"].water_budget()
    rows["PINN"] = rival(experiment, begun, args, sizes)
    by_laws = solved(experiment, rows["PINN"]["laws"], sizes)
    rows |= {"PINN, its laws solved": by_laws} if by_laws else {}
    rows["published, all depths fitted"] = {"heads": experiment.published}
    rows["straight lines in depth"] = {"heads": between(experiment)}
    for row in rows.values():
        row |= scores(experiment, row["heads"], FITTED, HELD_OUT)
    network = rows["networks"]
    network["bands"] = bands(network, experiment, HELD_OUT, args.draws)
    network["identified"] = identified(network)
    network["visited"] = visited(network["column"])
    network["of the steps"] = of_the_steps(experiment, network, sizes)
    return rows


def both_laws(
    experiment: Evaporation, args: argparse.Namespace, sizes: dict[str, int]
) -> tuple[dict[str, dict], Laws]:
    """Van Genuchten's laws and networks, fitted; and the networks as they began."""
    print("van Genuchten and Mualem:", flush=True)
    often = min(3, args.rounds), 2 * args.iterations
    hand = fitted(experiment, VanGenuchten(), FITTED, HELD_OUT, 0.03, *often, **sizes)
    print("networks:", flush=True)
    start = networks_like(hand["laws"], args.width, args.seed)
    begun = copied(start)
    network = fitted(
        experiment, start, FITTED, HELD_OUT, 0.015, args.rounds, args.iterations, **sizes
    )
    return {"van Genuchten-Mualem": hand, "networks": network}, begun


def between(experiment: Evaporation) -> np.ndarray:
    """Heads without a model: log10(-h) straight between the fitted depths, at each time."""
    columns = experiment.columns(FITTED)
    logs = np.log10(-experiment.heads[:, columns])
    return np.array(
        [-(10 ** np.interp(experiment.depths, experiment.depths[columns], row)) for row in logs]
    )


def rival(
    experiment: Evaporation, begun: Laws, args: argparse.Namespace, sizes: dict[str, int]
) -> dict:
    """A PINN from the same networks.

    The equation's weight is that whose laws, in the finite element model, are the best at one of
    the fitted depths when trained without it.
    """
    others = tuple(d for d in FITTED if d != VALIDATED)
    tried = []
    for weight in args.pinn_weights:
        pinn = Pinn(experiment, copied(begun), others, weight, seed=args.seed)
        known = pinn.train(args.adam // 2, args.lbfgs // 2)
        tried.append({"weight": weight, "loss": known["losses"][-1]} | validation(pinn, sizes))
        print(f"PINN, {tried[-1]}", flush=True)
    best = min(tried, key=lambda t: (t[BY_LAWS] or np.inf, t["log10"]))["weight"]
    pinn = Pinn(experiment, copied(begun), FITTED, best, seed=args.seed)
    known = pinn.train(args.adam, args.lbfgs)
    print(f"PINN, weight {best:g}: loss {known['losses'][-1]:.3g}", flush=True)
    return known | {
        "laws": pinn.laws,
        "heads": pinn.heads(),
        "tried": tried,
        "water": pinn.water_budget(),
        "weights": sum(p.numel() for p in (*pinn.laws.parameters(), *pinn.head.parameters())),
    }


def validation(pinn: Pinn, sizes: dict[str, int]) -> dict:
    """Errors at the depth that was left out, and the water that is lost by the networks."""
    experiment = pinn.experiment
    column = experiment.columns((VALIDATED,))

    def error(heads: np.ndarray) -> float:
        return rms(np.log10(heads[:, column] / experiment.heads[:, column]))

    found = {"log10": error(pinn.heads()), "lost, cm": pinn.water_budget()["lost"]}
    by_laws = solved(experiment, pinn.laws, sizes)
    return found | {BY_LAWS: error(by_laws["heads"]) if by_laws else None}


def solved(experiment: Evaporation, laws: Laws, sizes: dict[str, int]) -> dict:
    """The laws of the rival in the finite element model; empty where it has no solution.

    Laws that conduct too little cannot supply the evaporation with any head.
    """
    column = Column(experiment, laws, FITTED, **sizes)
    try:
        return {"laws": laws, "heads": column.simulate(), "water": column.water_budget()}
    except ConvergenceError as error:
        print(f"These laws do not let out what evaporates: {error}", flush=True)
        return {}


def of_the_steps(experiment: Evaporation, row: dict, sizes: dict[str, int]) -> dict[str, float]:
    """How far the heads are from those with twice the cells and four times the steps."""
    finer = {"cells": 2 * sizes["cells"], "substeps": 4 * sizes["substeps"]}
    heads = Column(experiment, row["laws"], FITTED, **finer).simulate()
    logs = np.log10(row["heads"] / heads)
    return {
        "log10": float(np.sqrt(np.mean(logs**2))),
        "largest, cm": float(np.abs(row["heads"] - heads).max()),
    }
