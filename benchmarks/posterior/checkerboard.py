"""Aristoff and Bangerth's problem: a checkerboard's coefficients, where Laplace is not enough.

-div(a grad u) = 10 on the unit square, u = 0 on its boundary; 64 coefficients, in q = log a with
the prior N(4, 2^2); bilinear elements on 32 x 32 cells; 13 x 13 points with noise of 0.05.
arXiv 2102.07263.  The data are made here, on a finer mesh.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn

SIGMA = 0.05
PUBLISHED = 128.8629  # minus the log posterior at its maximum
# Of the data that the paper's program has: the first, and that of the seventh point both ways.
DATA = {(0, 0): 0.06076511762259369, (6, 6): 0.7121928678670187}


class Checkerboard(torch.nn.Module):
    """A piecewise constant, positive function of x and y, by the logarithm of its values."""

    def __init__(self, n=8):
        super().__init__()
        self.n, self.q = n, torch.nn.Parameter(torch.zeros(n * n, dtype=torch.float64))

    def forward(self, x):
        cell = (x * self.n).floor().clamp(0, self.n - 1).long()
        return torch.exp(self.q[cell[:, 0] + self.n * cell[:, 1]])[:, None]


def truth(n=8):
    """One, but for a soft square and a stiff one."""
    a = np.ones((8, 8))
    a[1:3, 1:3], a[5:7, 5:7] = 0.1, 10.0
    return np.log(a[:: 8 // n, :: 8 // n]).ravel()


def problem(cells, net):
    mesh = UnitSquareMesh(cells, cells, quadrilateral=True)
    V = FunctionSpace(mesh, "Q", 1)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(net, SpatialCoordinate(mesh), degree=2)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    return F, u, DirichletBC(V, 0, "on_boundary"), kappa


class Membrane:
    """The functional, minus the logarithm of the posterior of q."""

    def __init__(self, n=8, cells=32, fine=256):
        get_working_tape().clear_tape()
        net = Checkerboard(n)
        points = np.arange(1, 14) / 14
        self.points = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2)
        F, u, bc, kappa = problem(fine, net)
        with stop_annotating():
            kappa.weights.assign(truth(n))
            femnn.solve(F == 0, u, bc)
            self.values = np.array(femnn.Stations(u.function_space().mesh(), self.points)(u))
        F, u, bc, kappa = problem(cells, net)
        self.weights = kappa.weights
        self.weights.assign(np.zeros(n * n))
        at = femnn.Stations(u.function_space().mesh(), self.points)
        data = femnn.Observations(at, self.values, SIGMA)
        prior = femnn.GaussianPrior(self.weights, 0.25, mean=4.0, groups="all", fixed=True)
        continue_annotation()
        femnn.solve(F == 0, u, bc)
        J = data.misfit(u) + prior.energy()
        pause_annotation()
        self.Jhat = ReducedFunctional(J, Control(self.weights))


def measure(steps=5000, n=8, cells=32, fine=256, n_chains=4):
    model = Membrane(n, cells, fine)
    result = femnn.fit(model.Jhat, "newton-cg", maxiter=60, gtol=1e-8, progress=False)
    rows = {"minimum": result.loss, "steps": steps}
    rows["data"] = {str(k): float(model.values[k[0] + 13 * k[1]]) for k in DATA}
    posterior = femnn.laplace(model.Jhat, hessian="exact")
    rows["above one"] = int((posterior.spectrum > 1).sum())
    found = {}
    for method in ("h-pcn", "pcn"):
        began = time.process_time()
        found[method] = femnn.chains(posterior, steps, n_chains=n_chains, method=method)
        ess = found[method].ess
        rows[method] = {
            "seconds": time.process_time() - began,
            "accepted": found[method].accepted,
            "step": float(found[method].step.mean()),
            "r_hat": float(found[method].r_hat.max()),
            "solves": found[method].solves,
            "ess": [float(ess.min()), float(np.median(ess))],
            "ess per 1000 solves": float(1000 * np.median(ess) / found[method].solves),
        }
    chain = found["h-pcn"]
    ratio, off = posterior.std / chain.std, np.abs(posterior.mean - chain.mean) / chain.std
    rows["std ratio"] = [float(ratio.min()), float(ratio.max())]
    rows["mean off"] = float(off.max())
    return rows


def report(rows):
    print("\n(l) Aristoff and Bangerth's checkerboard: Laplace and chains")
    shown = ", ".join(f"{k}: {rows['data'][str(k)]:.5f} ({v:.5f})" for k, v in DATA.items())
    print(f"    minus log posterior at the maximum {rows['minimum']:.4f}, published {PUBLISHED}")
    print(f"    data here and published {shown}")
    for method in ("h-pcn", "pcn"):
        row = rows[method]
        print(
            f"    {method:<6} {row['solves']} solves, {row['accepted']:.0%} accepted at step "
            f"{row['step']:.2f}, ESS {row['ess'][0]:.0f} to median {row['ess'][1]:.0f}, R-hat "
            f"{row['r_hat']:.2f}, {row['ess per 1000 solves']:.1f} draws per 1000 solves, "
            f"{row['seconds']:.0f} s"
        )
    low, high = rows["std ratio"]
    print(
        f"    {rows['above one']} eigenvalues above one; Laplace's std {low:.2f} to {high:.2f} "
        f"times the chain's, the maximum off its mean by up to {rows['mean off']:.2f}"
    )
