"""A + B -> C in a flow past a cylinder: the flow, the species, the true rate, the readings.

Lengths are in heights of the channel, speeds in mean speeds of the flow, concentrations in a
unit of the sources'.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

MESH = Path(__file__).parents[1] / "meshes" / "cylinder.msh"
INFLOW, OUTFLOW, WALLS, CYLINDER = 1, 2, 3, 4  # its sides
CENTRE, RADIUS = (0.5, 0.48), 0.1  # of the cylinder
VISCOSITY = 0.01  # the Reynolds number of the cylinder is 20: the flow is steady
DIFFUSIVITY = 0.01
DURATION = 3.0
DEGREE = 4  # of quadrature
NOZZLES = (0.2, 0.58), (0.2, 0.4)  # where A and where B flows in
WIDTH = 0.1  # of a nozzle
NOISE = 0.01  # of a reading, in parts of the species' largest reading
EVERY = 2  # steps from one reading to the next
FLOW_SOLVER = {"snes_rtol": 1e-10, "snes_linesearch_type": "basic"}
SOLVER = {"snes_rtol": 1e-7, "snes_atol": 1e-10, "snes_linesearch_type": "basic"}


def truth(a, b):
    """The rate that is to be recovered, for UFL and numpy.

    Langmuir's and Hinshelwood's: A and B compete for the places of a catalyst, so that much of A
    slows the reaction down.
    """
    return 20 * a * b / (1 + 3 * a + b) ** 2


@dataclass(frozen=True)
class Sources:
    """How strongly A and B flow in at time t: ``strength * sin(rate * t)**2``."""

    strength: tuple[float, float]
    rate: tuple[float, float]

    def at(self, t: float) -> np.ndarray:
        """The two strengths at time t."""
        return np.multiply(self.strength, np.sin(np.multiply(self.rate, t)) ** 2)


TRAINING = Sources((12.0, 12.0), (1.5, 2.3))
TEST = Sources((8.0, 12.0), (2.6, 1.1))


def flow(mesh) -> Function:
    """The velocity: Navier-Stokes, steady, with a parabola at the inflow; Taylor-Hood elements."""
    V, Q = VectorFunctionSpace(mesh, "P", 2), FunctionSpace(mesh, "P", 1)
    both = Function(V * Q)
    w, p = split(both)
    v, q = TestFunctions(V * Q)
    y = SpatialCoordinate(mesh)[1]
    F = inner(dot(grad(w), w), v) * dx + VISCOSITY * inner(grad(w), grad(v)) * dx
    F += -p * div(v) * dx - q * div(w) * dx
    space = both.function_space().sub(0)
    bcs = [
        DirichletBC(space, as_vector((6 * y * (1 - y), 0)), INFLOW),
        DirichletBC(space, 0, (WALLS, CYLINDER)),
    ]
    solve(F == 0, both, bcs, solver_parameters=FLOW_SOLVER)
    velocity = both.subfunctions[0]
    velocity.rename("velocity")
    return velocity


class Reactor:
    """The three species in the flow; ``law`` gives the rate as a function of a and b."""

    def __init__(self, velocity: Function, steps: int, law: Callable):
        mesh = velocity.function_space().mesh()
        V = VectorFunctionSpace(mesh, "P", 1, dim=3)
        self.velocity, self.steps, self.step = velocity, steps, DURATION / steps
        self.u, self.old = Function(V, name="concentrations"), Function(V)
        self.strengths = Constant(0.0), Constant(0.0)
        v = TestFunction(V)
        middle = (self.u + self.old) / 2  # Crank-Nicolson's
        rate = law(middle[0], middle[1])
        x = SpatialCoordinate(mesh)
        A, B = (
            s * exp(-inner(x - as_vector(place), x - as_vector(place)) / (2 * WIDTH**2))
            for s, place in zip(self.strengths, NOZZLES, strict=True)
        )
        gains = as_vector((A - rate, B - rate, rate))
        F = inner((self.u - self.old) / self.step + dot(grad(middle), velocity) - gains, v)
        F += DIFFUSIVITY * inner(grad(middle), grad(v))
        problem = femnn.NeuralVariationalProblem(
            F * dx(degree=DEGREE), self.u, DirichletBC(V, 0, INFLOW)
        )
        self.solver = femnn.NeuralVariationalSolver(problem, solver_parameters=SOLVER)

    def run(self, sources: Sources, every: int = 1) -> Iterator[Function]:
        """The concentrations a, b and c after every so many steps, from none at the start."""
        self.u.assign(0.0)
        for k in range(1, self.steps + 1):
            self.old.assign(self.u)
            strengths = sources.at((k - 0.5) * self.step)
            for constant, value in zip(self.strengths, strengths, strict=True):
                constant.assign(value)
            self.solver.solve()
            if k % every == 0:
                yield self.u

    def outflow(self) -> float:
        """How much of C leaves the channel, in a unit of time."""
        n = FacetNormal(self.velocity.function_space().mesh())
        return assemble(self.u[2] * inner(self.velocity, n) * ds(OUTFLOW))


def stations() -> np.ndarray:
    """Where a and c are measured: on a grid over the channel, but for the cylinder."""
    x, y = np.meshgrid(np.linspace(0.2, 2.4, 12), np.linspace(0.1, 0.9, 8))
    outside = np.hypot(x - CENTRE[0], y - CENTRE[1]) > 1.1 * RADIUS
    return np.stack((x[outside], y[outside]), 1)
