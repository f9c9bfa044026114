"""Calderon's problem: k(x, y) inside from u and its flux on the boundary."""

import sys
from dataclasses import dataclass
from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *

import femnn
from benchmarks.published import fields, framework
from benchmarks.published.methods import DIRECT, by_femnn, side_by_side
from benchmarks.published.poisson import DEGREE, coefficient_error, constant_error, grid, network
from benchmarks.published.training import Budget

NAME = "calderon"
TITLE = "Calderon's problem"
ALONE = "femnn, both stages"


@dataclass(frozen=True)
class Settings:
    """What a run takes.

    Attributes
    ----------
    n, n_data
        Squares along a side, of the model and of the data.
    iterations, newton_evaluations
        Of L-BFGS-B and then of truncated Newton, for both methods.
    alone
        The same two for femnn alone.
    seed
        Of the weights; the paper gives none.
    """

    n: int
    n_data: int
    iterations: int
    newton_evaluations: int
    alone: tuple[int, int]
    seed: int = 1


SETTINGS = {
    "paper": Settings(80, 200, 1000, 1000, (1000, 1000)),
    "short": Settings(40, 200, 500, 0, (1000, 1000)),
    "reduced": Settings(20, 40, 60, 0, (60, 60)),
}


def truth(x, y):
    """The coefficient that is to be recovered, for UFL and numpy."""
    square = (x - 0.5) ** 2 + (y - 0.5) ** 2
    return 1 + 4 * (np.exp if isinstance(x, np.ndarray) else exp)(-square / 0.2**2)


class Calderon:
    """-div(k grad u) = 0 with known values and fluxes on the boundary.

    Parameters
    ----------
    n, n_data
        Squares along a side, of the model (P1) and of the data (P2).
    """

    def __init__(self, n: int, n_data: int):
        self.mesh = UnitSquareMesh(n, n)
        self.V = FunctionSpace(self.mesh, "P", 1)
        self.x, self.y = SpatialCoordinate(self.mesh)
        self.normal = FacetNormal(self.mesh)
        self.data = Function(self.V, name="u data")
        self.data.interpolate(solution(n_data), allow_missing_dofs=False)
        self.dx, self.ds = dx(degree=DEGREE), ds(degree=DEGREE)
        self.flux = truth(self.x, self.y) * dot(self.normal, grad(self.data))

    def model(self, method):
        """The misfit of the flux, as a function of the method."""
        u, v = Function(self.V, name="u"), TestFunction(self.V)
        k = method.law(self.x, self.y, degree=DEGREE)
        F = k * inner(grad(u), grad(v)) * self.dx
        method.solver(F, u, DirichletBC(self.V, self.data, "on_boundary")).solve()
        on_boundary = method.law(self.x, self.y, degree=DEGREE, measure=ds)
        flux = on_boundary * dot(self.normal, grad(u))
        return method.assemble((flux - self.flux) ** 2 * self.ds)

    @cached_property
    def flux_size(self) -> float:
        """The squared L2 norm of the flux."""
        return float(assemble(self.flux**2 * self.ds))

    def errors(self, net) -> dict[str, float]:
        """Relative L2 errors of k and u."""
        u, v = Function(self.V), TestFunction(self.V)
        k = femnn.NeuralCoefficient(net, self.x, self.y, degree=DEGREE)
        F = k * inner(grad(u), grad(v)) * self.dx
        bc = DirichletBC(self.V, self.data, "on_boundary")
        femnn.solve(F == 0, u, bc, solver_parameters=DIRECT)
        error = assemble((u - self.data) ** 2 * dx) / assemble(self.data**2 * dx)
        k_error = coefficient_error(net, truth, grid())
        return {"k_error": k_error, "u_error": float(error**0.5)}


def solution(n: int) -> Function:
    """The solution with the true coefficient, P2."""
    mesh = UnitSquareMesh(n, n)
    V = FunctionSpace(mesh, "P", 2)
    x, y = SpatialCoordinate(mesh)
    sides = [exp(-((x - a) ** 2 + (y - 0.5) ** 2) / 0.5**2) for a in (1, 0)]
    u, v = Function(V), TestFunction(V)
    F = truth(x, y) * inner(grad(u), grad(v)) * dx(degree=6)
    bc = DirichletBC(V, Function(V).project(sides[0] - sides[1]), "on_boundary")
    solve(F == 0, u, bc, solver_parameters={"snes_type": "ksponly", **DIRECT})
    return u


def run(settings: Settings) -> dict:
    """Train by both methods; the loss is given relative to the flux."""
    problem, net = Calderon(settings.n, settings.n_data), network(settings.seed)
    before = problem.errors(net)
    rows = side_by_side(
        problem.model,
        net,
        problem.mesh,
        problem.errors,
        Budget(settings.iterations, newton_evaluations=settings.newton_evaluations),
    )
    alone = Budget(settings.alone[0], newton_evaluations=settings.alone[1])
    rows[ALONE] = by_femnn(problem.model, net, problem.mesh, problem.errors, alone)
    for row in rows.values():
        row["flux_error"] = (row["loss"] / problem.flux_size) ** 0.5
    return {"rows": rows, "before": before}


def figure(results: dict) -> plt.Figure:
    """The recovered coefficient."""
    rows = results["rows"]
    drawn, axes = fields.square(2)
    fields.draw(axes, truth, {ALONE: rows[ALONE]["weights"]})
    fields.losses(axes[1, 0], rows)
    return drawn


def report(results: dict) -> str:
    """Errors of k, u and the flux, and times."""
    columns = {**framework.COLUMNS, "flux_error": ("error of the flux", ".2%")}
    rows = results["rows"]
    iterations, evaluations = results["settings"]["alone"]
    return "\n\n".join(
        [
            "k = 1 + 4 exp(-r²/0.2²) about the centre; u on the boundary is the difference of two "
            "bells on the right and the left side, and the flux k du/dn there is compared.",
            framework.settings_table(results),
            framework.method_table(rows, columns),
            f"The best constant k has an error of {constant_error(truth, grid()):.1%}; the "
            f"starting weights have {results['before']['k_error']:.1%}.",
            f'"{ALONE}": femnn alone, {iterations} iterations of L-BFGS-B, then {evaluations} '
            "evaluations of truncated Newton, as the paper has it. One pair of boundary data says "
            "little about the inside: the misfit falls much further than the error of k.",
            framework.verdict({"this problem": rows}),
        ]
    )


if __name__ == "__main__":
    framework.main(sys.modules[__name__])
