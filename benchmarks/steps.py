"""What a small step costs: a nonlinear heat equation in one dimension, 88 cells, P1.

The tape's recomputation of a step and its adjoint, over the bare solve of Firedrake for the same
equation without a network.  Both take two Newton iterations a step.  The floor is what is left when
nothing but computing is counted: forward the bare solve and three evaluations of the network with
its derivative, one for each residual; in the adjoint a linear solve with a tangent that is
assembled anew, and one product with the network's Jacobian.  Processor times.
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
    run = compare({"bare": Bare, "pyadjoint": WithPyadjoint, "femnn": WithFemnn}, repeats)
    times, ours = run["seconds a step"], run["seconds a step"]["femnn"]
    sweep, product, linear = (ours.pop(part) for part in ("sweep", "product", "linear"))
    bare = times["bare"]["forward"]
    times["floor"] = {"forward": bare + 3 * sweep, "adjoint": linear + product}
    return {**run, "over the bare solve": over(times, bare)}


def compare(methods, repeats):
    """Each method's seconds a step, and these over the first one's."""
    times = {}
    for name, make in methods.items():
        times[name] = make().times(repeats)
        get_working_tape().clear_tape()
        gc.collect()
    ratios = over(times, times["bare"]["forward"])
    return {"steps": STEPS, "seconds a step": times, "over the bare solve": ratios}


def over(times, bare):
    return {n: {k: t / bare for k, t in ts.items()} for n, ts in times.items()}


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
        return {
            "forward": min(forward) / STEPS,
            "adjoint": min(adjoint) / STEPS,
            **self.parts(repeats),
        }

    def parts(self, repeats):
        """Nothing more to measure."""
        return {}

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

    def parts(self, repeats):
        """The network alone, and a linear solve with a tangent of the same size."""
        evaluator, V = self.kappa.evaluator, self.u.function_space()
        at = np.random.default_rng(1).random((len(self.kappa.dat.data_ro), 1))
        a = (1 + self.un**2) * inner(grad(TrialFunction(V)), grad(TestFunction(V))) * dx
        problem = LinearVariationalProblem(
            a, TestFunction(V) * dx, Function(V), DirichletBC(V, 0, 1)
        )
        linear = LinearVariationalSolver(problem)

        def each(function, *args):
            function(*args)
            return min(clock(function, *args) for _ in range(10 * repeats))

        return {
            "sweep": each(evaluator.value_and_derivative, at),
            "product": each(evaluator.weight_vjp, at, np.ones_like(at)),
            "linear": each(linear.solve),
        }

    def near(self, i):
        return self.control.like(self.control.vector * (1 + 1e-3 * i))


def clock(function, *args):
    start = time.process_time()
    function(*args)
    return time.process_time() - start
