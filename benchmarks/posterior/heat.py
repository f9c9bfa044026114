"""Heat in one dimension, linear and Gaussian: mean, covariance and coverage in closed form.

The problem of UM-Bridge's benchmark heat-1d: 100 nodes to T = 0.01, an initial state in 20 sines
whose coefficients have the prior N(0, I), noise of 0.1 % everywhere or of 5 % on the left half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn

LEVELS = (0.5, 0.8, 0.9, 0.95)
DECAY, NORMALIZER = 1.5, 10.0
DEGREE = 9
CASES = {"0.1 % everywhere": (0.001, 1.0), "5 % on the left half": (0.05, 0.5)}


class Sines(torch.nn.Module):
    """A sum of sines whose weights are the coefficients of a Karhunen-Loeve expansion."""

    def __init__(self, n):
        super().__init__()
        self.register_buffer("k", torch.arange(1, n + 1, dtype=torch.float64))
        self.coefficients = torch.nn.Parameter(torch.zeros(n, dtype=torch.float64))

    def forward(self, x):
        modes = torch.sin(torch.pi * self.k * x) / self.k**DECAY / NORMALIZER
        return (modes * self.coefficients).sum(-1, keepdim=True)


@dataclass
class Size:
    nodes: int = 100
    modes: int = 20
    steps: int = 50


class Heat:
    """The model, its data, and the matrix from coefficients to what is seen, by numpy alone."""

    def __init__(self, size, noise, part, schedule=None):
        get_working_tape().clear_tape()
        self.size, n = size, size.nodes
        mesh = UnitIntervalMesh(n + 1)
        self.V = FunctionSpace(mesh, "CG", 1)
        self.dt = 0.01 / size.steps
        self.grid = np.arange(1, n + 1) / (n + 1)
        self.seen = self.grid[self.grid <= part]
        self.matrix = self.by_numpy()
        x = np.linspace(0, 1, 20001)
        exact = (
            1 - np.cos(2 * np.pi * x) + sum(np.exp(-200 * (x - a) ** 2) for a in (0.5, 0.8))
        ) / 30
        modes = self.modes(x)
        truth = np.linalg.lstsq(modes, exact, rcond=None)[0]
        clean = self.matrix @ truth
        self.sigma = noise * np.linalg.norm(clean) / np.sqrt(len(clean))
        self.values = clean + np.random.default_rng(0).normal(0, self.sigma, len(clean))
        self.record(mesh, schedule)

    def modes(self, x):
        k = np.arange(1, self.size.modes + 1)
        return np.sin(np.pi * np.outer(x, k)) / k**DECAY / NORMALIZER

    def by_numpy(self):
        """Implicit Euler steps of linear elements, written out; the nodes are the grid's."""
        n, h = self.size.nodes, 1 / (self.size.nodes + 1)
        near = np.eye(n, k=1) + np.eye(n, k=-1)
        M, K = h / 6 * (4 * np.eye(n) + near), (2 * np.eye(n) - near) / h
        # Five Gauss points a cell for the load of the sines, as the coefficient's degree has.
        points, weights = np.polynomial.legendre.leggauss(DEGREE // 2 + 1)
        load = np.zeros((n + 2, self.size.modes))
        for cell in range(n + 1):
            x = h * (cell + 0.5 * (1 + points))
            for local, shape in enumerate((0.5 * (1 - points), 0.5 * (1 + points))):
                load[cell + local] += (0.5 * h * weights * shape) @ self.modes(x)
        u = np.linalg.solve(M, load[1:-1])
        for _ in range(self.size.steps):
            u = np.linalg.solve(M + self.dt * K, M @ u)
        return u[: len(self.seen)]

    def record(self, mesh, schedule):
        u, un, v = Function(self.V), Function(self.V), TestFunction(self.V)
        self.stations = femnn.Stations(mesh, self.seen)
        data = femnn.Observations(self.stations, self.values, self.sigma)
        bc = DirichletBC(self.V, 0, "on_boundary")
        continue_annotation()
        tape = femnn.enable_checkpointing(schedule) if schedule else get_working_tape()
        self.net = Sines(self.size.modes)
        kappa = femnn.NeuralCoefficient(self.net, SpatialCoordinate(mesh)[0], degree=DEGREE)
        self.weights = kappa.weights
        femnn.solve((u - kappa) * v * dx == 0, u, bc)
        F = ((u - un) * v + self.dt * inner(grad(u), grad(v))) * dx
        for _ in tape.timestepper(iter(range(self.size.steps))):
            un.assign(u)
            femnn.solve(F == 0, u, bc)
        prior = femnn.GaussianPrior(self.weights, 1.0, fixed=True)
        J = data.misfit(u) + prior.energy()
        pause_annotation()
        self.Jhat = ReducedFunctional(J, Control(self.weights))

    def posterior(self):
        self.weights.assign(np.zeros(self.size.modes))
        femnn.fit(self.Jhat, "gauss-newton", maxiter=5, progress=False)
        return femnn.laplace(self.Jhat)

    def closed_form(self, values):
        covariance = np.linalg.inv(
            np.eye(self.size.modes) + self.matrix.T @ self.matrix / self.sigma**2
        )
        return covariance @ self.matrix.T @ values / self.sigma**2, covariance


def coverage(heat, covariance, draws):
    """Shares of coefficients, drawn from the prior, inside central intervals of noisy data."""
    random = np.random.default_rng(1)
    truth = random.standard_normal((draws, heat.size.modes))
    clean = truth @ heat.matrix.T
    values = clean + random.normal(0, heat.sigma, clean.shape)
    mean = values @ heat.matrix @ covariance / heat.sigma**2
    distance = np.abs(truth - mean) / np.sqrt(np.diag(covariance))
    limits = [femnn.Normal(0.0, 1.0).interval(level)[1] for level in LEVELS]
    return [float((distance <= limit).mean()) for limit in limits]


def measure(size=None, draws=200):
    rows = {}
    for name, (noise, part) in CASES.items():
        heat = Heat(size or Size(), noise, part)
        found = heat.posterior()
        mean, covariance = heat.closed_form(heat.values)
        scale = np.sqrt(np.outer(*2 * [np.diag(covariance)]))
        rows[name] = {
            "mean error": float(np.abs((found.mean - mean) / np.sqrt(np.diag(covariance))).max()),
            "covariance error": float(np.abs((found.covariance - covariance) / scale).max()),
            "effective parameters": found.effective_parameters,
            "coverage": coverage(heat, found.covariance, draws),
            "draws": draws,
        }
    return rows


def report(rows):
    print(
        "\n(j) Heat in 1-D: the posterior against its closed form, in posterior standard deviations"
    )
    for name, row in rows.items():
        shares = ", ".join(
            f"{level:.0%}: {share:.1%}"
            for level, share in zip(LEVELS, row["coverage"], strict=True)
        )
        print(
            f"    {name:<22}mean {row['mean error']:.0e}, covariance {row['covariance error']:.0e}"
            f", {row['effective parameters']:.1f} effective parameters; coverage of "
            f"{row['draws']} draws {shares}"
        )
