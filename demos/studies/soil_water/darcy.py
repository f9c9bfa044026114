"""Steady flow in the unit square, -div(K grad u) = 0, with K a network of place or of the head.

After A. M. Tartakovsky, C. Ortiz Marrero, P. Perdikaris, G. D. Tartakovsky, D. Barajas-Solano:
Physics-informed deep neural networks for learning parameters and constitutive relationships in
subsurface flow problems, Water Resour. Res. 56 (2020), with a truth of our own.  Water enters at
x = 0 with a known flow, the head at x = 1 is known, nothing passes the other two sides, and the
data are heads at stations, with noise.  K is measured nowhere: the known flow gives it its size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from torch import Tensor, nn

import femnn
from demos.studies.common import Stopwatch, recording, relative_difference

NOISE = 0.002  # of the heads' range
TRUE_CELLS = 40
SOLVER = {"snes_rtol": 1e-10, "snes_linesearch_type": "bt", "ksp_type": "preonly", "pc_type": "lu"}


class Field(nn.Module):
    """A draw of a lognormal K(x, y), stationary, correlated over a length."""

    def __init__(self, seed: int, length: float = 0.3, std: float = 0.7, waves: int = 200):
        super().__init__()
        random = np.random.default_rng(seed)
        self.waves = torch.tensor(random.normal(0, 1 / length, (2, waves)))
        self.phases = torch.tensor(random.uniform(0, 2 * np.pi, waves))
        self.size = std * np.sqrt(2 / waves)
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.cos(x @ self.waves + self.phases).sum(1, keepdim=True)
        return torch.exp(self.size * waves) + 0 * self.unused


class Mualem(nn.Module):
    """K(u) of a dry soil: van Genuchten's and Mualem's, alpha = 0.15 and n = 2."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, u: Tensor) -> Tensor:
        wet = (0.15 * u) ** 2
        S = 1 / torch.sqrt(1 + wet)
        return torch.sqrt(S) * (1 - torch.sqrt(wet / (1 + wet))) ** 2 + 0 * self.unused


@dataclass(frozen=True)
class Problem:
    """A flow: its true law, a network for it, what enters at x = 0, and the head at x = 1."""

    name: str
    truth: nn.Module
    network: Callable[[int], nn.Module]
    of_head: bool
    inflow: Callable  # of y, for UFL, torch and numpy with their own cos
    outside: float
    scale: float  # of the head
    stations: tuple[int, ...]


def problems(stations: tuple[int, ...], seed: int) -> list[Problem]:
    """K(x, y) in a saturated soil, K(u) in an unsaturated one."""

    def of_place(seed: int) -> nn.Module:
        return femnn.MLP(2, 16, 16, 1, output="exp", input_range=(0.0, 1.0), seed=seed)

    def of_head(seed: int) -> nn.Module:
        return femnn.MonotoneMLP(1, 8, 1, output="exp", input_range=(-10.0, -2.0), seed=seed)

    few = tuple(max(5, n // 4) for n in stations)
    return [
        Problem("K(x, y)", Field(seed + 5), of_place, False, even, 0.0, 1.0, stations),
        Problem("K(u)", Mualem(), of_head, True, uneven, -10.0, 5.0, few),
    ]


def even(y, cos):
    """The same flow all along the side."""
    return 1.0 + 0 * y


def uneven(y, cos):
    """More flow at one end of the side, none at the other."""
    return 0.9 * (1 + cos(np.pi * y))


class Flow:
    """The finite element model of a problem with some law."""

    def __init__(self, problem: Problem, law: nn.Module, cells: int, degree: int = 2):
        mesh = UnitSquareMesh(cells, cells)
        self.u = u = Function(FunctionSpace(mesh, "CG", degree), name="head")
        v, (x, y) = TestFunction(u.function_space()), SpatialCoordinate(mesh)
        u.assign(problem.outside)
        self.K = femnn.NeuralCoefficient(law, *((u,) if problem.of_head else (x, y)), degree=4)
        F = self.K * inner(grad(u), grad(v)) * dx - problem.inflow(y, cos) * v * ds(1)
        bc = DirichletBC(u.function_space(), problem.outside, 2)
        self.solver = femnn.NeuralVariationalSolver(
            femnn.NeuralVariationalProblem(F, u, bc), solver_parameters=SOLVER
        )

    def heads(self, points: np.ndarray) -> np.ndarray:
        """Heads at points, not recorded."""
        with stop_annotating():
            self.solver.solve()
            return np.array(femnn.Stations(self.u.function_space().mesh(), points)(self.u).vector)


@dataclass(frozen=True)
class Data:
    """Noisy heads at stations, and the true ones on a grid."""

    points: np.ndarray
    heads: np.ndarray
    error: float
    grid: np.ndarray
    true_heads: np.ndarray


def measured(problem: Problem, n: int, seed: int) -> Data:
    """Heads of the truth on a finer mesh, at random stations."""
    random = np.random.default_rng([seed, n])
    points = random.uniform(0.02, 0.98, (n, 2))
    side = (np.arange(20) + 0.5) / 20
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    exact = Flow(problem, problem.truth, TRUE_CELLS).heads(np.concatenate([points, grid]))
    error = NOISE * float(np.ptp(exact))
    noisy = exact[:n] + random.normal(0, error, n)
    return Data(points, noisy, error, grid, exact[n:])


def by_elements(problem: Problem, data: Data, seed: int, cells: int, rounds: int) -> dict:
    """A network in the finite element model; prior and noise by the evidence."""
    watch = Stopwatch()
    law = started(problem, seed)
    flow = Flow(problem, law, cells)
    noise = Constant(data.error / 2, name="noise")
    stations = femnn.Stations(flow.u.function_space().mesh(), data.points)
    observed = femnn.Observations(stations, data.heads, scale=noise)
    prior = femnn.GaussianPrior(flow.K.weights)
    with recording():
        flow.solver.solve()
        J = observed.misfit(flow.u) + prior.energy()
        Jhat = ReducedFunctional(J, Control(flow.K.weights))
    result = femnn.fit_with_evidence(Jhat, rounds=rounds, maxiter=8, progress=False)
    return errors(problem, data, law, flow.heads(data.grid)) | {
        "seconds": watch.seconds(),
        "runs": result.solves.forward,
        "solves": result.solves.linear,
        "noise": float(noise) / data.error,
        "effective": result.posterior.effective_parameters,
        "law": law,
    }


def started(problem: Problem, seed: int) -> nn.Module:
    """The network with which both ways begin."""
    return problem.network(seed)


def errors(problem: Problem, data: Data, law: nn.Module, heads: np.ndarray) -> dict:
    """Relative L2 errors of K, over the square or the range of heads, and of the heads."""
    inputs = data.grid
    if problem.of_head:
        inputs = np.linspace(data.true_heads.min(), data.true_heads.max(), 200)[:, None]
    with torch.no_grad():
        K, true = (m(torch.tensor(inputs)).numpy().ravel() for m in (law, problem.truth))
    shift = problem.outside
    return {
        "K": relative_difference(K, true),
        "head": relative_difference(heads - shift, data.true_heads - shift),
    }
