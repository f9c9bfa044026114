"""Laws to be learned from stations, with data without noise: of the unknown, of place, in time."""

from __future__ import annotations

from typing import Any

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

NOISE = 0.01  # of the largest value
U_MAX = 1.1388  # of the first problem with the true law


class Case:
    """A law to be learned, with data without noise.

    Subclasses set ``stations``, ``clean``, ``times`` and the law's ``inputs`` in the visited range
    with its ``known`` values, and write ``observed``, which runs the model.  ``rounds`` of the
    evidence are enough, beginning with another draw's law.
    """

    times: Any = None
    rounds = 6

    def __init__(self, net, refined=True):
        self.net, self.fresh = net, femnn.Weights.of(net).vector.copy()
        self.refined = refined

    def observe(self, data):
        """Run the model with the network, recorded; its misfit."""
        raise NotImplementedError

    @property
    def spread(self):
        return NOISE * np.abs(self.clean).max()

    def record(self, values, start=None):
        """The functional of data, from weights and precisions of a former draw."""
        get_working_tape().clear_tape()
        weights, precision, noise = start or (self.fresh, 1.0, 0.1 * self.spread)
        self.noise = Constant(noise, name="noise")
        self.weights = femnn.Weights.of(self.net)
        self.weights.assign(weights)
        data = femnn.Observations(self.stations, values, times=self.times, scale=self.noise)
        self.prior = femnn.GaussianPrior(self.weights, precision)
        continue_annotation()
        J = self.observe(data) + self.prior.energy()
        pause_annotation()
        return ReducedFunctional(J, Control(self.weights))


def law_of_u(u, exp=exp):
    return 0.25 + 0.5 * exp(-(((u - 0.25) / 0.13) ** 2)) + 0.75 / (1 + exp(-14 * (u - 0.65)))


class OfU(Case):
    """``-div(kappa(u) grad u) = 2.6``, as in ``demos/law_with_band.py``."""

    rounds = 10

    def __init__(self, cells=12, n_stations=400, width=10, below=None, refined=True):
        net = femnn.MLP(
            *(1, width, width, 1), output="softplus", input_range=(0, 1), init="normal", seed=0
        )
        super().__init__(net, refined)
        self.mesh, random = UnitSquareMesh(cells, cells), np.random.default_rng(0)
        exact = Function(FunctionSpace(self.mesh, "P", 4 if refined else 2))
        solve(*self.problem(exact, law_of_u(exact)))
        points = random.uniform(0, 1, (n_stations if below is None else 4 * n_stations, 2))
        if below is not None:
            low = np.asarray(femnn.Stations(self.mesh, points)(exact)) < below
            points = points[low][:n_stations]
        self.stations = femnn.Stations(self.mesh, points)
        self.clean = np.asarray(self.stations(exact))
        self.inputs = (np.linspace(0, U_MAX, 200),)
        self.known = law_of_u(*self.inputs, np.exp)

    def problem(self, u, kappa):
        v = TestFunction(u.function_space())
        F = kappa * inner(grad(u), grad(v)) * dx - 2.6 * v * dx
        return F == 0, u, DirichletBC(u.function_space(), 0, (1, 3))

    def observe(self, data):
        u = Function(FunctionSpace(self.mesh, "P", 2))
        femnn.solve(*self.problem(u, femnn.NeuralCoefficient(self.net, u)))
        return data.misfit(u)


class OfPlace(Case):
    """``-div(kappa(x, y) grad u) = 10``, u = 0 on the boundary."""

    def __init__(self, cells=8, n_stations=400, width=6, refined=True):
        net = femnn.MLP(2, width, width, 1, output="softplus", input_range=(0, 1), seed=0)
        super().__init__(net, refined)
        self.mesh, random = UnitSquareMesh(cells, cells), np.random.default_rng(0)
        exact = Function(FunctionSpace(self.mesh, "P", 4 if refined else 2))
        x, y = SpatialCoordinate(self.mesh)
        solve(*self.problem(exact, self.law(x, y)))
        self.stations = femnn.Stations(self.mesh, random.uniform(0, 1, (n_stations, 2)))
        self.clean = np.asarray(self.stations(exact))
        line = np.linspace(0, 1, 25)
        self.inputs = np.meshgrid(line, line)
        self.known = self.law(*self.inputs)

    @staticmethod
    def law(x, y):
        return 1 / (1 + x**2 * y**2 + (x - 1) ** 2 * (y - 1) ** 2)

    def problem(self, u, kappa):
        v = TestFunction(u.function_space())
        F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
        return F == 0, u, DirichletBC(u.function_space(), 0, "on_boundary")

    def observe(self, data):
        u = Function(FunctionSpace(self.mesh, "P", 2))
        kappa = femnn.NeuralCoefficient(self.net, *SpatialCoordinate(self.mesh), degree=4)
        femnn.solve(*self.problem(u, kappa))
        return data.misfit(u)


class InTime(Case):
    """``dT/dt = (k(T) T')'``, hot at x = 0, as in ``demos/heat_in_time.py``."""

    def __init__(self, cells=10, steps=5, n_stations=20, width=6, refined=True):
        net = femnn.MLP(
            *(1, width, width, 1), output="softplus", input_range=(0, 1), init="normal", seed=0
        )
        super().__init__(net, refined)
        self.mesh, self.steps = UnitIntervalMesh(cells), steps
        self.times = np.arange(1, steps + 1) / steps
        self.stations = femnn.Stations(
            self.mesh, np.arange(1, n_stations + 1)[:, None] / n_stations
        )
        V = FunctionSpace(self.mesh, "P", 5 if refined else 2)
        self.clean = np.array([np.array(self.stations(T)) for T in self.run(V, self.law)])
        self.inputs = (np.linspace(0, 1, 200),)
        self.known = self.law(*self.inputs)

    @staticmethod
    def law(T):
        return 0.1 + 0.4 / (1 + 10 * (T - 0.6) ** 2)

    def run(self, V, k):
        T, last, v = Function(V), Function(V), TestFunction(V)
        F = self.steps * (T - last) * v * dx + k(T) * inner(grad(T), grad(v)) * dx
        problem = femnn.NeuralVariationalProblem(F, T, DirichletBC(V, 1, 1))
        solver = femnn.NeuralVariationalSolver(problem)
        for _ in range(self.steps):
            solver.solve()
            last.assign(T)
            yield T

    def observe(self, data):
        observe = data.start()
        V = FunctionSpace(self.mesh, "P", 2)
        states = self.run(V, lambda T: femnn.NeuralCoefficient(self.net, T))
        for time_, T in zip(self.times, states, strict=True):
            observe(T, time_)
        return observe.misfit()
