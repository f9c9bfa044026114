"""What a small step costs: a nonlinear heat equation in one dimension, 88 cells, P1.

The tape's recomputation of a step and its adjoint, over the bare solve of Firedrake for the same
equation without a network.  Both take two Newton iterations a step.
"""

import gc
import time

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

STEPS = 100
NEWTON = {"snes_max_it": 2, "snes_convergence_test": "skip", "snes_force_iteration": None}


def measure(repeats):
    times = {}
    for name, make in (("bare", Bare), ("pyadjoint", WithPyadjoint), ("femnn", WithFemnn)):
        method = make()
        times[name] = method.times(repeats)
        get_working_tape().clear_tape()
        gc.collect()
    bare = times["bare"]["forward"]
    ratios = {n: {k: t / bare for k, t in ts.items()} for n, ts in times.items()}
    return {"steps": STEPS, "seconds a step": times, "over the bare solve": ratios}


class Bare:
    """Firedrake's solver alone."""

    def __init__(self):
        mesh = UnitIntervalMesh(88)
        V = FunctionSpace(mesh, "CG", 1)
        (self.x,) = SpatialCoordinate(mesh)
        self.u, self.un, v = Function(V, name="u"), Function(V, name="un"), TestFunction(V)
        self.dt = Constant(1e-3)
        self.surface = Function(V, name="surface")
        F = (self.u - self.un) / self.dt * v * dx
        F += self.conductivity() * inner(grad(self.u), grad(v)) * dx
        self.solver = self.make_solver(F, DirichletBC(V, self.surface, 1))

    def conductivity(self):
        return 0.5 + self.u**2

    def make_solver(self, F, bc):
        problem = NonlinearVariationalProblem(F, self.u, bc)
        return NonlinearVariationalSolver(problem, solver_parameters=NEWTON)

    def run(self):
        self.un.interpolate(sin(np.pi * self.x))
        for step in range(STEPS):
            self.surface.assign(0.2 * np.sin(0.1 * step))
            self.solver.solve()
            self.un.assign(self.u)
        return self.u

    def times(self, repeats):
        self.run()
        return {"forward": min(clock(self.run) for _ in range(repeats)) / STEPS}


class WithPyadjoint(Bare):
    """The same, recorded and differentiated by pyadjoint, for a field in the equation."""

    def conductivity(self):
        self.control = Function(self.un.function_space(), name="m").assign(0.5)
        return self.control + self.u**2

    def functional(self):
        return assemble(self.u**2 * dx)

    def times(self, repeats):
        continue_annotation()
        self.run()
        Jhat = ReducedFunctional(self.functional(), Control(self.control))
        pause_annotation()
        points = [self.near(i) for i in range(repeats + 1)]
        Jhat(points[0])
        Jhat.derivative()
        forward, adjoint = [], []
        for point in points[1:]:
            forward.append(clock(Jhat, point))
            adjoint.append(clock(Jhat.derivative))
        return {"forward": min(forward) / STEPS, "adjoint": min(adjoint) / STEPS}

    def near(self, i):
        return self.control.copy(deepcopy=True).assign(0.5 + 1e-3 * i)


class WithFemnn(WithPyadjoint):
    """The conductivity a 1-30-1 network of the temperature."""

    def conductivity(self):
        self.kappa = femnn.NeuralCoefficient(
            femnn.MLP(1, 30, 1, output="softplus", seed=1), self.u, degree=4
        )
        self.control = self.kappa.weights
        return self.kappa

    def make_solver(self, F, bc):
        problem = femnn.NeuralVariationalProblem(F, self.u, bc)
        return femnn.NeuralVariationalSolver(problem, solver_parameters=NEWTON, warm_start=False)

    def functional(self):
        return femnn.assemble(self.u**2 * dx)

    def near(self, i):
        return self.control.like(self.control.vector * (1 + 1e-3 * i))


def clock(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start
