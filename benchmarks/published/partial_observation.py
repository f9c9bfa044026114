"""Partial observation: k(x, y) from u in a part of the domain."""

import sys
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *

from benchmarks.published import fields, framework
from benchmarks.published.methods import OURS_LONGER, side_by_side
from benchmarks.published.poisson import Poisson, coefficient_error, constant_error, grid, network
from benchmarks.published.training import Budget

NAME = "partial_observation"
TITLE = "Partial observation"
HALF_WIDTH = (0.25, 0.15)


@dataclass(frozen=True)
class Settings:
    """Squares along a side (a multiple of 20), iterations, seed of the weights."""

    n: int
    iterations: int
    seed: int = 6


SETTINGS = {
    "paper": Settings(80, 10_000),
    "short": Settings(40, 400),
    "reduced": Settings(20, 80),
}


def truth(x, y):
    """The coefficient that is to be recovered, for UFL and numpy."""
    wave = (
        (np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y))
        if isinstance(x, np.ndarray)
        else (sin(2 * pi * x) * sin(2 * pi * y))
    )
    return 1 + 0.5 * wave


def inside(points: np.ndarray) -> np.ndarray:
    """Which points are observed."""
    return (np.abs(points - 0.5) <= HALF_WIDTH).all(axis=1)


def misfit(problem: Poisson):
    """The model as a function of the method: the distance to u in the box of observations."""
    x, y = problem.x, problem.y
    in_box = And(abs(x - 0.5) <= HALF_WIDTH[0], abs(y - 0.5) <= HALF_WIDTH[1])
    cells = Function(FunctionSpace(problem.mesh, "DG", 0)).interpolate(conditional(in_box, 1, 0))

    def model(method):
        u = problem.solve(method, problem.law(method))
        return method.assemble(cells * (u - problem.exact) ** 2 * problem.dx)

    return model


def run(settings: Settings) -> dict:
    """Train by both methods; the error of k is also taken in the box alone."""
    problem, net = Poisson(settings.n, truth), network(settings.seed)
    points = grid()

    def errors(net):
        box = coefficient_error(net, truth, points[inside(points)])
        return {**problem.errors(net), "box_error": box}

    model = misfit(problem)
    return {"rows": side_by_side(model, net, problem.mesh, errors, Budget(settings.iterations))}


def figure(results: dict) -> plt.Figure:
    """The recovered coefficient, and the box."""
    rows = results["rows"]
    drawn, axes = fields.square(2)
    corner = (0.5 - HALF_WIDTH[0], 0.5 - HALF_WIDTH[1])
    box = (corner, 2 * HALF_WIDTH[0], 2 * HALF_WIDTH[1])
    fields.draw(axes, truth, {OURS_LONGER: rows[OURS_LONGER]["weights"]}, box)
    fields.losses(axes[1, 0], rows)
    return drawn


def report(results: dict) -> str:
    """Errors in all the domain and in the box, and times."""
    columns = {
        "k_error": framework.COLUMNS["k_error"],
        "box_error": ("error of k in the box", ".2%"),
        **framework.COLUMNS,
    }
    rows, points = results["rows"], grid()
    return "\n\n".join(
        [
            "k = 1 + 0.5 sin(2πx) sin(2πy), u as before, observed where |x - 0.5| ≤ 0.25 and "
            "|y - 0.5| ≤ 0.15.",
            framework.settings_table(results),
            framework.method_table(rows, columns),
            f"The best constant k has an error of {constant_error(truth, points):.2%}, of "
            f"{constant_error(truth, points[inside(points)]):.2%} in the box. Outside the box "
            "nothing is observed: longer training lowers the loss and the error in the box; k and "
            "u outside are left to the network.",
            framework.verdict({"this problem": rows}),
        ]
    )


if __name__ == "__main__":
    framework.main(sys.modules[__name__])
