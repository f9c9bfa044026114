"""A + B -> C in a flow past a cylinder: the flow, the species, the true rate, the readings.

Lengths are in heights of the channel, speeds in mean speeds of the flow, concentrations in a
unit of the sources'.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

MESH = Path(__file__).parents[3] / "meshes" / "cylinder.msh"
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
UNIT = 10.0  # of the networks' output
FLOW_SOLVER = {"snes_rtol": 1e-10, "snes_linesearch_type": "basic"}
SOLVER = {"snes_rtol": 1e-7, "snes_atol": 1e-10, "snes_linesearch_type": "basic"}


def truth(a, b):
    """The rate that is to be recovered, for UFL and numpy.

    Langmuir's and Hinshelwood's: A and B compete for the places of a catalyst, so that much of A
    slows the reaction down.
    """
    return 20 * a * b / (1 + 3 * a + b) ** 2


def scaled(values, a, b, power: int):
    """A rate from a network's values, with a power of a b before it; for UFL and numpy."""
    return UNIT * (a * b) ** power * values


def rate(law: Callable, power: int) -> Callable:
    """The same in the model: ``law`` is a ``NeuralCoefficient`` of a and b, or plain UFL."""
    return lambda a, b: scaled(law(a, b, degree=DEGREE), a, b, power)


def network(seed: int, largest: np.ndarray, hidden: Sequence[int] = (16, 16)) -> femnn.MLP:
    """A positive network of a and b, each from 0 to its largest value."""
    ranges = [(0.0, float(upper)) for upper in largest]
    given = {"output": "softplus", "input_range": ranges, "init": "normal", "seed": seed}
    return femnn.MLP(2, *hidden, 1, **given)


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


def kept_solver(F, u: Function, bc: DirichletBC) -> femnn.NeuralVariationalSolver:
    """A solver for all steps."""
    problem = femnn.NeuralVariationalProblem(F, u, bc)
    return femnn.NeuralVariationalSolver(problem, solver_parameters=SOLVER)


class Reactor:
    """The three species in the flow.

    Parameters
    ----------
    velocity, steps
        Of the flow; the number of steps in time.
    law
        Gives the rate as a UFL expression of a and b.
    make_solver
        Makes an object whose ``solve()`` takes a step, of the residual, the unknown and its
        boundary condition.
    duration
        Of the run.
    """

    def __init__(
        self,
        velocity: Function,
        steps: int,
        law: Callable,
        make_solver=kept_solver,
        duration: float = DURATION,
    ):
        mesh = velocity.function_space().mesh()
        V = VectorFunctionSpace(mesh, "P", 1, dim=3)
        self.velocity, self.steps, self.step = velocity, steps, duration / steps
        self.u, self.old = Function(V, name="concentrations"), Function(V)
        # Functions, not Constants: pyadjoint would solve all steps with a Constant's last value.
        R = FunctionSpace(mesh, "R", 0)
        self.strengths = Function(R), Function(R)
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
        self.solver = make_solver(F * dx(degree=DEGREE), self.u, DirichletBC(V, 0, INFLOW))

    def run(self, sources: Sources, every: int = 1) -> Iterator[Function]:
        """The concentrations a, b and c after every so many steps, from none at the start."""
        self.u.assign(0.0)
        for k in range(1, self.steps + 1):
            self.old.assign(self.u)
            strengths = sources.at((k - 0.5) * self.step)
            for strength, value in zip(self.strengths, strengths, strict=True):
                strength.assign(value)
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


def observe(fine: Reactor, places, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy readings, and each species' standard deviation.

    Parameters
    ----------
    fine
        A model with half as long steps as the one that is to be fitted.
    places
        The :class:`femnn.Stations` in its mesh.
    seed
        Of the noise.

    Returns
    -------
    tuple of numpy.ndarray
        The readings by time, species (a, c) and station; the deviations.
    """
    run = fine.run(TRAINING, 2 * EVERY)
    exact = np.array([[places(u[0]), places(u[2])] for u in run])
    deviation = NOISE * exact.max((0, 2))
    noise = np.random.default_rng(seed).normal(size=exact.shape)
    return exact + deviation[:, None] * noise, deviation


def misfit(reactor: Reactor, places, readings: np.ndarray, deviation: np.ndarray):
    """Half the mean square difference to the readings, in units of the noise; on the tape."""
    J = 0.0
    for u, measured in zip(reactor.run(TRAINING, EVERY), readings, strict=True):
        for i, values, spread in zip((0, 2), measured, deviation, strict=True):
            data = femnn.Observations(places, values, spread * readings.size**0.5)
            J += data.misfit(u[i])
    return J


def predict(reactor: Reactor, coarse=None) -> tuple[list[Function], list[float]]:
    """c after each step with the sources of the test, and what of it flows out.

    With a mesh ``coarse``, of which the reactor's is a refinement: c there after every second
    step.
    """
    found, outflow = [], []
    for u in reactor.run(TEST, 1 if coarse is None else 2):
        if coarse is not None:
            on_coarse = Function(VectorFunctionSpace(coarse, "P", 1, dim=3))
            inject(u, on_coarse)
            u = on_coarse
        found.append(Function(u.function_space().sub(2).collapse()).interpolate(u[2]))
        outflow.append(float(reactor.outflow()))
    return found, outflow


def visited(reactor: Reactor) -> tuple[np.ndarray, np.ndarray]:
    """a and b at all nodes after all steps of the run, and the nodes' areas; on every rank."""
    space = FunctionSpace(reactor.u.function_space().mesh(), "P", 1)
    area = assemble(TestFunction(space) * dx).dat.data_ro
    rows = [np.c_[u.dat.data_ro[:, :2], area] for u in reactor.run(TRAINING)]
    together = np.concatenate(space.mesh().comm.allgather(np.concatenate(rows)))
    return together[:, :2], together[:, 2]


def weighted_difference(found: np.ndarray, exact: np.ndarray, area: np.ndarray) -> float:
    """Relative root mean square difference."""
    return float((area @ (found - exact) ** 2 / (area @ exact**2)) ** 0.5)


def difference_in_time(found: list[Function], exact: list[Function]) -> float:
    """Relative L2 difference in space and time."""
    pairs = list(zip(found, exact, strict=True))
    return (sum(errornorm(v, u) ** 2 for u, v in pairs) / sum(norm(v) ** 2 for v in exact)) ** 0.5
