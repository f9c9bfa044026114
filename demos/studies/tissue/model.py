"""The monodomain equation: stimuli, the model, and what is observed of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from firedrake import *
from scipy.interpolate import CubicSpline
from torch import nn

import femnn
from femnn.parallel import max_over_ranks

from .membrane import REST, SideBySide, resting_gates

SIDE = 25.0  # mm
DIFFUSIVITY = 0.174 / (140 * 0.01)  # mm^2/ms: conductivity, surface per volume, capacity
STRENGTH = 100.0  # mV/ms, of a stimulus
STEP, FINE_STEP = 0.01, 0.02  # ms; the finer scheme is of second order
OBSERVED = 0.1  # ms between observations
STEPS = round(OBSERVED / STEP)


def entries(mesh, count: int):
    """P1 functions with so many entries."""
    if count == 1:
        return FunctionSpace(mesh, "P", 1)
    return VectorFunctionSpace(mesh, "P", 1, dim=count)


def direct(mesh) -> dict[str, str]:
    """Options of a solver for a linear equation, by factors of its matrix."""
    return {
        "snes_type": "ksponly",
        "ksp_type": "preonly",
        "pc_type": "lu",
        "pc_factor_mat_solver_type": "petsc" if mesh.comm.size == 1 else "mumps",
    }


@dataclass(frozen=True)
class Protocol:
    """A stimulus of 1 ms at nodes.

    ``is_within`` takes the nodes' coordinates in units of the side and says which are stimulated;
    times are in ms.
    """

    is_within: Callable
    begin: float
    end: float
    period: float = np.inf

    def is_on(self, t: float) -> bool:
        """Whether the stimulus acts at this time."""
        return self.begin <= t % self.period < self.begin + 1


CORNER = Protocol(lambda x, y: np.maximum(x, y) < 1e-6, begin=3.0, end=30.0)
CENTRE = Protocol(
    lambda x, y: np.maximum(abs(x - 0.5), abs(y - 0.5)) < 0.2 + 1e-6,
    begin=5.0,
    end=100.0,
    period=25.0,
)


@dataclass(frozen=True)
class Case:
    """A stimulus on a mesh, until so many ms."""

    mesh: MeshGeometry
    protocol: Protocol
    end: float


def cases(cells: int, side: float, end: float, test_end: float) -> dict[str, Case]:
    """The run for training, and that for the test with other diagonals and another stimulus."""

    def square(diagonal: str) -> MeshGeometry:
        return RectangleMesh(cells, cells, side, side, diagonal=diagonal)

    return {
        "training": Case(square("right"), CORNER, end),
        "test": Case(square("crossed"), CENTRE, test_end),
    }


class Tissue:
    """The monodomain equation, with a module of ``membrane`` at each node.

    Parameters
    ----------
    mesh
        Of the square.
    membrane
        The module.
    fine
        Whether to use the scheme that data are made with.
    runs
        Number of runs side by side: v and stimulus then have an entry for each, the gates three.
    """

    def __init__(self, mesh, membrane: nn.Module, fine: bool = False, runs: int = 1):
        self.V, self.mesh = entries(mesh, runs), mesh
        names = ("v", "v before", "stimulus")
        self.v, self.before, self.stimulus = (Function(self.V, name=name) for name in names)
        self.gates = Function(entries(mesh, 3 * runs), name="gates")
        self.step = FINE_STEP if fine else STEP
        w, dt, theta = TestFunction(self.V), Constant(self.step), 0.5 if fine else 1.0
        flux = DIFFUSIVITY * grad(theta * self.v + (1 - theta) * self.before)
        F = inner((self.v - self.before) / dt, w) * dx + inner(flux, grad(w)) * dx
        problem = femnn.NeuralVariationalProblem(F, self.v)
        self.splitting = (femnn.StrangSplitting if fine else femnn.LieSplitting)(
            femnn.NeuralVariationalSolver(problem, solver_parameters=direct(mesh)),
            self.before,
            membrane if runs == 1 else SideBySide(membrane, runs),
            self.stimulus,
            dt=dt,
            states=[self.gates],
            method="rk4" if fine else "forward_euler",
        )
        x = Function(VectorFunctionSpace(mesh, "P", 1)).interpolate(SpatialCoordinate(mesh))
        self.nodes = x.dat.data_ro / max_over_ranks(mesh.comm, x.dat.data_ro.max())

    def stimulate(self, protocol: Protocol, t: float) -> np.ndarray:
        """The stimulus at this rank's nodes, also put into the model."""
        values = STRENGTH * protocol.is_within(*self.nodes.T) * protocol.is_on(t)
        self.stimulus.dat.data_wo[:] = values
        return values

    def march(self, protocol: Protocol, end: float) -> Iterator[None]:
        """All steps from the rest; stops at each observation."""
        self.v.assign(REST)
        self.gates.assign(Constant(resting_gates()))
        every = round(OBSERVED / self.step)
        yield
        for k in range(round(end / self.step)):
            self.stimulate(protocol, (k + 0.5) * self.step)
            self.splitting.step()
            if (k + 1) % every == 0:
                yield

    def record(self, protocol: Protocol, end: float) -> np.ndarray:
        """The stimulus' course (v, m, h, n) at this rank's nodes: (times, nodes, 4)."""
        return np.array(
            [
                np.column_stack([self.v.dat.data_ro, self.gates.dat.data_ro])
                for _ in self.march(protocol, end)
            ]
        )

    def together(self, local: np.ndarray) -> np.ndarray:
        """Arrays (times, nodes, ...) of all ranks as one, nodes by y and then x.  Collective."""
        nodes = np.concatenate(self.mesh.comm.allgather(self.nodes))
        values = np.concatenate(self.mesh.comm.allgather(local), axis=1)
        return values[:, np.lexsort(nodes.round(6).T)]


class Observations:
    """What was observed, and what diffusion and stimulus have added to v meanwhile.

    Parameters
    ----------
    tissue
        Any model on the mesh.
    values
        (v, m, h, n) at this rank's nodes, (times, nodes, 4).
    protocol
        The stimulus.

    Attributes
    ----------
    stimulus : numpy.ndarray
        In each interval between observations, at this rank's nodes, in mV/ms.
    """

    def __init__(self, tissue: Tissue, values: np.ndarray, protocol: Protocol):
        self.tissue, self.values, self.protocol = tissue, values, protocol
        middles = OBSERVED * (np.arange(len(values) - 1) + 0.5)
        self.stimulus = np.array([tissue.stimulate(protocol, t) for t in middles])
        self.diffusion = self._diffusion()

    def windows(self, count: int, length: int) -> np.ndarray:
        """The first observations of windows of so many intervals.

        They are spread evenly between the stimulus and the end.
        """
        last = len(self.stimulus) - length
        first = min(round(self.protocol.begin / OBSERVED), last)
        return np.linspace(first, last, min(count, last - first + 1)).round().astype(int)

    def _diffusion(self) -> np.ndarray:
        """What diffusion adds to v at each node and time, in mV/ms."""
        V = self.tissue.V
        v, added, w = Function(V), Function(V), TestFunction(V)
        weak = -DIFFUSIVITY * inner(grad(v), grad(w)) * dx
        problem = LinearVariationalProblem(
            TrialFunction(V) * w * dx, weak, added, constant_jacobian=True
        )
        solver, found = LinearVariationalSolver(problem), []
        for values in self.values:
            v.dat.data_wo[:] = values[:, 0]
            solver.solve()
            found.append(added.dat.data_ro.copy())
        return np.array(found)

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs of the membrane and its rates, from splines where v has no kink in time.

        The rates are those over a step, with diffusion at its end, as the model's scheme has them.
        """
        times = OBSERVED * np.arange(len(self.values))
        observed = np.concatenate([self.values, self.diffusion[:, :, None]], axis=2)
        later = CubicSpline(times, observed)(times + STEP)
        rates = (later - observed)[:, :, :4] / STEP
        inputs = np.concatenate([self.values, later[:, :, 4:]], axis=2)
        smooth = ~self.stimulus.any(axis=0)
        kept = (slice(4, -4), smooth)  # splines are poor at their ends
        return self._rows(inputs[kept]), self._rows(rates[kept])

    def _rows(self, local: np.ndarray) -> np.ndarray:
        parts = self.tissue.mesh.comm.allgather(local.reshape(-1, local.shape[-1]))
        return np.concatenate(parts)
