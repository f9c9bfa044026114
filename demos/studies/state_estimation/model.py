"""Shallow water in a tidal channel, with Manning's n as a torch module of the depth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ufl
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn import NeuralCoefficient, NeuralVariationalProblem, NeuralVariationalSolver

from .laws import Law

G = 9.81  # m/s2
HOUR = 3600.0  # s
LENGTH = 12e3  # m
SLOWEST = 0.01  # m2/s: friction is linear in discharges below
SEA, RIVER = 1, 2  # the ends of the channel
PARAMETERS = {
    "mat_type": "aij",
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "petsc",
}

Series = Callable[[float], float]  # of time in s


def bed(x, sin=ufl.sin):
    """Depth of the bed below the datum in m, at a distance from the sea in m."""
    return 2.6 - 1.9 * x / LENGTH + 0.25 * sin(2 * np.pi * x / 5e3)


@dataclass
class Forcing:
    """What comes in at the ends: the sea's level in m, and the river's discharge in m2/s."""

    sea: Series
    river: Series


class Channel:
    """Shallow water in one dimension: level above the datum, and discharge of a unit width.

    The discharge is positive from the sea to the river.  Levels are piecewise linear and may jump
    (DG1), discharges continuous and quadratic (CG2): the water of each cell is conserved.  Depth
    and velocity in the equations' coefficients, and so the network, are extrapolated from the last
    two states to the middle of the step, so that each step is one linear solve.  The surface's
    slope is that of a theta scheme.  Friction is stiff in shallow water: it is the new discharge
    times the speed of the last, as an extrapolated speed oscillates with long steps.

    Parameters
    ----------
    law
        Manning's n.
    forcing
        At the ends.
    cells
        Of the mesh.
    step
        Length of a step in s.
    theta
        Weight of the new state.

    Attributes
    ----------
    level, discharge : Function
        The initial state, continuous and piecewise linear: the controls.
    state : Function
        The present one, level and discharge.
    n : NeuralCoefficient
        Manning's n at the extrapolated depths.
    """

    def __init__(self, law: Law, forcing: Forcing, cells: int, step: float, theta: float = 0.52):
        self.law, self.forcing, self.step, self.theta = law, forcing, step, theta
        self.mesh = IntervalMesh(cells, LENGTH)
        self.V = V = FunctionSpace(self.mesh, "CG", 1)
        self.level, self.discharge = Function(V, name="level"), Function(V, name="discharge")
        self.W = FunctionSpace(self.mesh, "DG", 1) * FunctionSpace(self.mesh, "CG", 2)
        self.state, self.last, self.before = (Function(self.W) for _ in range(3))
        self.sea, self.river = Constant(0.0, name="sea"), Constant(0.0, name="river")
        self.at_nodes = Function(self.W.sub(0).collapse())
        self.depth = bed(SpatialCoordinate(self.mesh)[0])
        self.starter, self.solver = self._starter(), self._solver()

    def _starter(self) -> NeuralVariationalSolver:
        """Takes the initial state into the spaces of level and discharge."""
        (eta, q), (v, w) = TrialFunctions(self.W), TestFunctions(self.W)
        a = (eta * v + q * w) * dx
        L = (self.level * v + self.discharge * w) * dx
        problem = NeuralVariationalProblem.linear(a, L, self.state, self._at_river())
        return NeuralVariationalSolver(problem, solver_parameters=PARAMETERS)

    def _solver(self) -> NeuralVariationalSolver:
        eta, q = split(self.last)
        new_eta, new_q = TrialFunctions(self.W)
        v, w = TestFunctions(self.W)
        middle = [self.theta * a + (1 - self.theta) * b for a, b in ((new_eta, eta), (new_q, q))]
        F = (new_eta - eta) / self.step * v * dx + middle[1].dx(0) * v * dx
        F += (new_q - q) / self.step * w * dx + self._forces(*middle, new_q, w)
        problem = NeuralVariationalProblem.linear(lhs(F), rhs(F), self.state, self._at_river())
        return NeuralVariationalSolver(problem, solver_parameters=PARAMETERS)

    def _forces(self, eta, q, new_q, w):
        """Momentum that is carried along, slope of the surface and friction, tested with w."""
        eta_star, q_star = (
            1.5 * a - 0.5 * b for a, b in zip(split(self.last), split(self.before), strict=True)
        )
        h, n = eta_star + self.depth, FacetNormal(self.mesh)
        self.n = NeuralCoefficient(self.law, h, degree=6)
        carried = q_star / h * q
        speed = sqrt(split(self.last)[1] ** 2 + SLOWEST**2) / h
        inertia = -carried * w.dx(0) * dx + carried * w * n[0] * ds(SEA)
        slope = G * h * eta.dx(0) * w * dx - G * avg(h) * jump(eta, n)[0] * avg(w) * dS
        slope -= G * h * (eta - self.sea) * n[0] * w * ds(SEA)
        friction = G * self.n**2 * speed * h ** (-4 / 3) * new_q * w * dx
        return inertia + slope + friction

    def _at_river(self) -> DirichletBC:
        return DirichletBC(self.W.sub(1), self.river, RIVER)

    @property
    def weights(self) -> femnn.Weights:
        """The law's."""
        return self.n.weights

    def begin(self, level, discharge) -> None:
        """Set the initial state to expressions of the place."""
        with stop_annotating():
            self.level.interpolate(level)
            self.discharge.interpolate(discharge)

    @property
    def places(self) -> np.ndarray:
        """Of the initial state's nodes, in m from the sea."""
        x = Function(self.V).interpolate(SpatialCoordinate(self.mesh)[0])
        return x.dat.data_ro.copy()

    def range_of_depths(self) -> tuple[float, float]:
        """Smallest and largest depth of the present state."""
        h = self.at_nodes.interpolate(split(self.state)[0] + self.depth).dat.data_ro
        return float(h.min()), float(h.max())

    def march(self, start: float, end: float, *observers: Callable) -> None:
        """All steps from the initial state; observers take (state, time)."""
        self.river.assign(self.forcing.river(start))
        self.starter.solve()
        self.last.assign(self.state)
        self.before.assign(self.state)
        for observe in observers:
            observe(self.state, start)
        for i in range(1, self.steps(start, end) + 1):
            now = start + i * self.step
            sea = self.forcing.sea
            self.sea.assign(self.theta * sea(now) + (1 - self.theta) * sea(now - self.step))
            self.river.assign(self.forcing.river(now))
            self.solver.solve()
            for observe in observers:
                observe(self.state, now)
            self.before.assign(self.last)
            self.last.assign(self.state)

    def steps(self, start: float, end: float) -> int:
        """How many from a time to another."""
        return round((end - start) / self.step)

    def water_budget(self, start: float, end: float) -> dict[str, float]:
        """The water that is stored and what comes through the ends, m2 per width, step by step.

        What is left of the difference is the solver's.
        """
        (eta, q), (last_eta, last_q) = split(self.state), split(self.last)
        through = self.theta * q + (1 - self.theta) * last_q
        normal = FacetNormal(self.mesh)[0]
        forms = ((eta - last_eta) * dx, -self.step * through * normal * ds)
        found = []

        def observe(state: Function, time: float) -> None:
            if time > start:
                found.append([assemble(form) for form in forms])

        with stop_annotating():
            self.march(start, end, observe)
        water = np.array(found)
        left = np.abs(water[:, 0] - water[:, 1]).max()
        stored, came = np.abs(water).sum(axis=0)
        return {"stored and given back": stored, "through the ends": came, "left in a step": left}
