"""What an optimiser costs: laws of the demos, each from the same start.

L-BFGS for a number of iterations, then Gauss-Newton until it reaches the same loss.  Processor
times; linear systems are those of Newton's methods, adjoints and directions of tangents, of which
a matrix carries all with one factorisation.
"""

import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from firedrake import *
from firedrake.adjoint import (
    Control,
    ReducedFunctional,
    continue_annotation,
    get_working_tape,
    pause_annotation,
)

import femnn
from demos.studies.hyperelasticity import __main__ as rubber
from demos.studies.hyperelasticity import sheet as sheets
from demos.studies.nonlinear_poisson.__main__ import residual, truth


@dataclass
class Problem:
    """A functional, its controls, and the error of what they stand for."""

    Jhat: Any
    weights: Any
    error: Any


def relative(found, known):
    return float(np.linalg.norm(found - known) / np.linalg.norm(known))


def problem(u, kappa):
    F, bc = residual(u, kappa)
    return F == 0, u, bc


class Poisson:
    """``demos/nonlinear_poisson.py``: stations, and the law that they know."""

    def __init__(self, cells, n_stations):
        self.mesh = UnitSquareMesh(cells, cells)
        exact = Function(FunctionSpace(self.mesh, "P", 4))
        solve(*problem(exact, truth(exact)))
        points = np.random.default_rng(0).uniform(0, 1, (n_stations, 2))
        self.stations = femnn.Stations(self.mesh, points)
        self.values = np.asarray(self.stations(exact))
        self.line = np.linspace(0, exact.dat.data_ro.max(), 1000)

    def record(self, data, with_prior=False):
        get_working_tape().clear_tape()
        net = femnn.MLP(1, 20, 20, 1, output="softplus", input_range=(0, 1), init="normal", seed=0)
        u = Function(FunctionSpace(self.mesh, "P", 2))
        kappa = femnn.NeuralCoefficient(net, u)
        continue_annotation()
        femnn.solve(*problem(u, kappa))
        J = data.misfit(u)
        if with_prior:
            J = J + femnn.GaussianPrior(kappa.weights).energy()
        pause_annotation()
        law = truth(self.line)
        return Problem(
            ReducedFunctional(J, Control(kappa.weights)),
            kappa.weights,
            lambda: relative(femnn.evaluate(net, self.line), law),
        )


def poisson(cells=24, n_stations=2500):
    made = Poisson(cells, n_stations)
    std = np.sqrt(n_stations)
    return made.record(femnn.Observations(made.stations, made.values, std=std))


def hyperelasticity(cells=4, width=6, steps=6):
    """A rubber sheet's energy from displacements and forces in six load steps, without noise.

    With a smaller network than the study's: what is observed as an integral, and laws at other
    points than the solves', are run once for each direction of the matrix.
    """
    get_working_tape().clear_tape()
    geometry = sheets.quarter(cells)
    V = VectorFunctionSpace(geometry[1], "P", 2)
    displacements, forces = sheets.observe(cells, V)
    states = sheets.visited(sheets.Sheet(*geometry, sheets.true_law), displacements)
    paths = sheets.visited_paths(states)
    ranges = [(3, 4), (5, 7.5), (0.6, 1.6)]
    net = femnn.ConvexMLP(3, width, 1, increasing=[0, 1], input_range=ranges, seed=0)
    energy = rubber.StoredEnergy(net)
    gradient, degree = femnn.Gradient(energy), sheets.DEGREE
    sheet = sheets.Sheet(*geometry, lambda x: femnn.NeuralCoefficient(gradient, *x, degree=degree))
    clamps = femnn.Functionals(
        geometry[1],
        ["right", "above"],
        lambda P: [P[i, i] * dx(geometry[1], degree=degree) for i in (0, 1)],
    )
    spread = np.sqrt(2) * sheets.FORCE_NOISE * abs(forces).max()
    area = assemble(Constant(1.0) * dx(geometry[1]))
    continue_annotation()
    J = 0.0
    first = islice(sheet.steps(), steps)
    for u, known, pair in zip(first, displacements, forces, strict=False):
        data = Function(sheet.V).assign(known)
        J += femnn.assemble((0.25 / area / sheets.NOISE**2) * (u - data) ** 2 * dx(degree=degree))
        J += femnn.Observations(clamps, pair, spread).misfit(sheet.P)
    pause_annotation()
    weights = femnn.Weights.of(gradient)

    def error():
        laws = (energy, rubber.true_energy)
        pairs = [[rubber.stress(law, F) for law in laws] for F in paths.values()]
        return float(np.mean([relative(*pair) for pair in pairs]))

    return Problem(ReducedFunctional(J, Control(weights)), weights, error)


def coefficient_field(cells=40):
    """``demos/coefficient_field.py`` without noise: a field as a network of x and y."""
    get_working_tape().clear_tape()
    mesh = UnitSquareMesh(cells, cells)
    V = FunctionSpace(mesh, "P", 1)
    x, y = SpatialCoordinate(mesh)
    known = 1 / (1 + x**2 * y**2 + (x - 1) ** 2 * (y - 1) ** 2)
    exact = sin(pi * x) * sin(pi * y)
    observed = Function(V).interpolate(exact)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 30, 1, output="softplus", seed=1), x, y)
    continue_annotation()
    f = -div(known * grad(exact))
    F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    femnn.solve(F == 0, u, bcs=DirichletBC(V, 0, "on_boundary"))
    J = femnn.assemble((u - observed) ** 2 * dx)
    J = J + femnn.assemble(1e-8 * inner(kappa.grad(), kappa.grad()) * dx)
    pause_annotation()

    def error():
        squares = femnn.assemble((kappa - known) ** 2 * dx) / assemble(known**2 * dx)
        return float(squares**0.5)

    return Problem(ReducedFunctional(J, Control(kappa.weights)), kappa.weights, error)


def heat(cells=20, steps=10):
    """``demos/heat_in_time.py`` without a schedule: a conductivity from ten steps."""
    get_working_tape().clear_tape()
    mesh = UnitIntervalMesh(cells)
    V = FunctionSpace(mesh, "P", 1)

    def known(T):
        return 0.1 + 0.4 / (1 + 10 * (T - 0.6) ** 2)

    def run(V, k):
        T, last, v = Function(V), Function(V), TestFunction(V)
        F = steps * (T - last) * v * dx + k(T) * inner(grad(T), grad(v)) * dx
        step = femnn.NeuralVariationalProblem(F, T, DirichletBC(V, 1, 1))
        solver = femnn.NeuralVariationalSolver(step)
        for _ in range(steps):
            solver.solve()
            last.assign(T)
            yield T

    observed = [Function(V).interpolate(T) for T in run(FunctionSpace(mesh, "P", 3), known)]
    net = femnn.MLP(1, 12, 12, 1, output="softplus", input_range=(0, 1), seed=0)
    continue_annotation()
    J = 0
    states = run(V, lambda T: femnn.NeuralCoefficient(net, T))
    for T, data in zip(states, observed, strict=True):
        J += femnn.assemble((T - data) ** 2 * dx)
    pause_annotation()
    line, weights = np.linspace(0, 1, 500), femnn.Weights.of(net)
    Jhat = ReducedFunctional(J, Control(weights))
    return Problem(Jhat, weights, lambda: relative(femnn.evaluate(net, line), known(line)))


# For each problem: what makes it, iterations of L-BFGS, and of Gauss-Newton at most.
PROBLEMS = {
    "nonlinear_poisson": (poisson, 300, 25),
    "hyperelasticity": (hyperelasticity, 100, 20),
    "coefficient_field": (coefficient_field, 80, 30),
    "heat_in_time": (heat, 60, 30),
}


def compare(made, iterations, most):
    """Both methods from the same start; the second one to the loss of the first."""
    start, rows, target = made.weights.vector.copy(), {}, None
    settings = {
        "L-BFGS": {"maxiter": iterations, "options": {"maxcor": 60}},
        "gauss-newton": {"maxiter": most},
    }
    for method, given in settings.items():
        made.weights.assign(start)
        made.Jhat(made.weights)
        began = time.process_time()
        result = femnn.fit(made.Jhat, method, target=target, progress=False, **given)
        rows[method] = {
            "loss": result.loss,
            "iterations": result.iterations,
            "evaluations": result.evaluations,
            "solves": vars(result.solves),
            "error": made.error(),
            "seconds": time.process_time() - began,
        }
        target = result.loss
    return rows


def with_noise(cells=24, n_stations=2500, rounds=30, level=0.01):
    """``nonlinear_poisson`` with noise whose size nobody tells: by the evidence."""
    made = Poisson(cells, n_stations)
    spread = level * made.values.max()
    noise = Constant(0.1 * spread)
    values = made.values + np.random.default_rng(1).normal(0, spread, n_stations)
    model = made.record(femnn.Observations(made.stations, values, scale=noise), with_prior=True)
    began = time.process_time()
    result = femnn.fit_with_evidence(model.Jhat, rounds=rounds, progress=False)
    return {
        "error": model.error(),
        "noise": float(noise) / spread,
        "effective parameters": result.posterior.effective_parameters,
        "rounds": len(result.history),
        "solves": vars(result.solves),
        "seconds": time.process_time() - began,
    }


def measure(repeats=1):
    rows = {name: compare(make(), *limits) for name, (make, *limits) in PROBLEMS.items()}
    return {"to the same loss": rows, "1 % noise": with_noise()}
