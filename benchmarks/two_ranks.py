"""The problem of ``benchmarks.problem`` on two ranks: solve, gradient and Gauss-Newton action.

By a direct solver, and by multigrid; with the parts in which the time is spent, and the linear
solver by itself.  Run under ``mpiexec`` as a module it prints JSON.
"""

import json
import sys
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial

import numpy as np
from firedrake import *
from firedrake.adjoint import *
from firedrake.petsc import DEFAULT_KSP_PARAMETERS, PETSc
from mpi4py import MPI
from petsctools import OptionsManager

import femnn
from benchmarks.on_ranks import OPTIONS as MULTIGRID
from benchmarks.problem import DEGREE, OPTIONS, network, other_weights
from benchmarks.speedup import Compared, run_on_ranks
from femnn.evaluation.interpolated import InterpolatedEvaluator
from femnn.tape.curvature import gauss_newton_product

SOLVERS = {"MUMPS": OPTIONS, "GAMG": MULTIGRID}
# By PETSc's names of what it takes the time of.
EVENTS = {
    "factors or levels": ("PCSetUp",),
    "linear solves": ("KSPSolve", "KSPSolveTranspos"),
}


class Model:
    """The recorded problem on some ranks, with a solver's options."""

    def __init__(self, n, options, comm):
        mesh = UnitSquareMesh(n, n, comm=comm)
        V = FunctionSpace(mesh, "CG", 1)
        x, y = SpatialCoordinate(mesh)
        observed = Function(V).interpolate(sin(pi * x) * sin(pi * y))
        u, v = Function(V), TestFunction(V)
        kappa = femnn.NeuralCoefficient(network(), u, degree=DEGREE)
        F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
        self.weights = kappa.weights
        problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
        solver = femnn.NeuralVariationalSolver(problem, solver_parameters=options)
        with set_working_tape(Tape()):
            continue_annotation()
            solver.solve()
            J = femnn.assemble((u - observed) ** 2 * dx)
            pause_annotation()
            self.Jhat = ReducedFunctional(J, Control(self.weights))
        self._matrix = solver.snes.getJacobian()[0].copy()
        self._ksp = PETSc.KSP().create(comm=comm)
        names = ("ksp_type", "ksp_rtol", "pc_type", "pc_factor_mat_solver_type")
        known = {**DEFAULT_KSP_PARAMETERS, **options}
        self._options = OptionsManager({k: known[k] for k in names}, None, default_prefix="bare")
        self._ksp.setOperators(self._matrix)
        self._options.set_from_options(self._ksp)

    def forward(self, w):
        return self.Jhat(self.weights.like(w))

    def gradient(self, w):
        return self.Jhat.derivative().vector

    def action(self, w):
        J, direction = self.Jhat, self.weights.like(np.cos(w))
        (product,) = gauss_newton_product(J.functional, J.controls, [direction], J.tape)
        return product.vector

    def petsc_alone(self, w):
        """The linear solver by itself: factors or levels of another matrix, and one solve."""
        right_side, solution = self._matrix.createVecs()
        right_side.set(1.0)
        self._matrix.scale(1.001)
        with self._options.inserted_options():
            self._ksp.setOperators(self._matrix)
            self._ksp.solve(right_side, solution)


WORK = {
    "forward": Model.forward,
    "gradient": Model.gradient,
    "Gauss-Newton action": Model.action,
    "PETSc alone": Model.petsc_alone,
}


@contextmanager
def seconds_of_network():
    """Let the network's sweeps be timed inside; a counter with ``network``."""
    spent, plain = Counter({"network": 0.0}), {}

    def timed(function):
        def call(*args, **keywords):
            start = time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                spent["network"] += time.perf_counter() - start

        return call

    for name in ("value_and_derivative", "weight_vjp", "variation"):
        plain[name] = getattr(InterpolatedEvaluator, name)
        setattr(InterpolatedEvaluator, name, timed(plain[name]))
    try:
        yield spent
    finally:
        for name, function in plain.items():
            setattr(InterpolatedEvaluator, name, function)


def seconds_of_petsc():
    """Seconds that this rank has spent in PETSc's events."""
    return {
        part: sum(PETSc.Log.Event(name).getPerfInfo()["time"] for name in names)
        for part, names in EVENTS.items()
    }


def compare(n, solver, repeats):
    """Times of all work by all ways, and by how much gradients differ."""
    PETSc.Log.begin()
    error = 0.0
    with seconds_of_network() as spent:
        compared = Compared(
            partial(Model, n, SOLVERS[solver]), lambda: seconds_of_petsc() | dict(spent)
        )
        for i, w in enumerate(other_weights(repeats + 1, len(femnn.Weights.of(network())))):
            for name, work in WORK.items():
                found = compared.measure(name, lambda model, work=work, w=w: work(model, w))
                if name == "gradient" and "one" in found:
                    difference = np.linalg.norm(found["ranks"] - found["one"])
                    error = max(error, difference / np.linalg.norm(found["one"]))
            if i == 0:
                compared.forget()
    return {"cells": f"{n} x {n}", "gradient error": float(error), "work": compared.report()}


def measure(repeats, n=256):
    """Each solver in processes of its own."""
    return {s: run_on_ranks(2, "two_ranks", n, s, repeats) for s in SOLVERS}


def report(run):
    """Print what was measured."""
    print(
        "\n(p) Two ranks over one, times faster (1.8 is wanted for forward and gradient), and two "
        "copies at once; share of the time of one"
    )
    for solver, row in run.items():
        print(f"    {solver}, {row['cells']}; gradients differ by {row['gradient error']:.0e}")
        for name, found in row["work"].items():
            seconds = 1e3 * found["seconds"]["one"]
            print(f"      {name:<22}{_shown(found)}{seconds:>8.0f} ms on one")
            for part, gain in found["parts"].items():
                if gain["share"] > 0.02:
                    print(f"        {part:<20}{_shown(gain)}{gain['share']:>8.0%}")


def _shown(gain):
    faster, copies = (gain[k] or np.nan for k in ("times faster", "copies"))
    return f"{faster:>6.2f}, copies {copies:.2f}"


def main(n, solver, repeats):
    row = compare(int(n), solver, int(repeats))
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
