"""A log-permeability from 50 points: what Newton's method and the posterior cost on finer meshes.

hIPPYlib's problem: -div(exp(m) grad u) = 0, u = y at bottom and top, u P2, m P1, a bilaplacian
prior.  Published at 64 x 64 cells: 12 Newton iterations with 89 Hessian actions; traces of the
covariances 1.7974 (prior) and 1.0147 (posterior), both estimated at random.
"""

from __future__ import annotations

import time

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

PUBLISHED = {"iterations": 12, "actions": 89, "prior": 1.7974, "posterior": 1.0147}
TOLERANCES = (1e-6, 1e-9)


def anisotropy(first=2.0, second=0.5, angle=np.pi / 4):
    s, c = np.sin(angle), np.cos(angle)
    turn = np.array([[s, c], [c, -s]])
    return as_matrix((turn @ np.diag([first, second]) @ turn.T).tolist())


class Subsurface:
    """The model with its data; the truth is a draw of the prior on ``coarse`` cells a side."""

    def __init__(self, cells, coarse):
        get_working_tape().clear_tape()
        mesh = UnitSquareMesh(cells, cells)
        self.V, self.m = (
            FunctionSpace(mesh, "CG", 2),
            Function(FunctionSpace(mesh, "CG", 1), name="m"),
        )
        self.prior = self.make_prior(self.m)
        truth = Function(self.m.function_space()).interpolate(self.draw(coarse))
        points = np.random.default_rng(1).uniform([0.1, 0.1], [0.9, 0.5], (50, 2))
        stations = femnn.Stations(mesh, points)
        u = Function(self.V)
        with stop_annotating():
            self.solve(u, truth)
            clean = np.array(stations(u))
        std = 0.01 * np.abs(clean).max()
        data = femnn.Observations(
            stations, clean + np.random.default_rng(2).normal(0, std, len(clean)), std
        )
        continue_annotation()
        self.solve(u, self.m)
        J = data.misfit(u) + self.prior.energy()
        pause_annotation()
        self.Jhat = ReducedFunctional(J, Control(self.m))

    @staticmethod
    def make_prior(m):
        return femnn.FieldPrior.bilaplacian(m, 0.1, 0.5, anisotropy())

    def draw(self, coarse):
        field = Function(FunctionSpace(UnitSquareMesh(coarse, coarse), "CG", 1))
        prior = self.make_prior(field)
        prior.layout.store(
            prior.metric.point(np.random.default_rng(0).standard_normal(len(prior))), field
        )
        return field

    def solve(self, u, m):
        v, y = TestFunction(self.V), SpatialCoordinate(self.V.mesh())[1]
        bc = DirichletBC(self.V, y, (3, 4))
        femnn.solve(exp(m) * inner(grad(u), grad(v)) * dx == 0, u, bc)


def fitted(model):
    """Iterations and actions with the Hessian until the gradient has fallen, and seconds."""
    norms = []

    def note(step, weights):  # an action has one run of the tangent-linear model
        norms.append((step.gradient_norm, step.solves.tangent))
        return step.gradient_norm <= min(TOLERANCES) * norms[0][0]

    began = time.process_time()
    femnn.fit(model.Jhat, "newton-cg", maxiter=50, callback=note, progress=False)
    seconds = time.process_time() - began
    found = {}
    for tolerance in TOLERANCES:
        i = next((i for i, (g, _) in enumerate(norms) if g <= tolerance * norms[0][0]), -1)
        found[f"{tolerance:.0e}"] = {
            "iterations": i if i >= 0 else len(norms) - 1,
            "actions": norms[i][1],
        }
    return found, seconds


def measure(cells=(32, 64, 128)):
    rows = {}
    for n in cells:
        model = Subsurface(n, cells[0])
        newton, seconds = fitted(model)
        began = time.process_time()
        posterior = femnn.laplace(model.Jhat, rank=50, hessian="exact")
        traces = posterior.trace(model.m)
        rows[str(n)] = {
            "newton": newton,
            "seconds": seconds,
            "posterior seconds": time.process_time() - began,
            "parameters": len(model.prior),
            "prior": traces.prior,
            "posterior": traces.posterior,
            "effective parameters": posterior.effective_parameters,
            "neglected": posterior.neglected,
            "spectrum": posterior.spectrum[:20].tolist(),
        }
    return rows


def report(rows):
    print("\n(k) hIPPYlib's subsurface problem: Newton-CG and the posterior")
    print(
        f"    published, 64 x 64: {PUBLISHED['iterations']} iterations, {PUBLISHED['actions']} "
        f"actions, traces {PUBLISHED['prior']} and {PUBLISHED['posterior']}"
    )
    for n, row in rows.items():
        work = ", ".join(
            f"{r['iterations']} iterations and {r['actions']} actions to {tolerance}"
            for tolerance, r in row["newton"].items()
        )
        print(
            f"    {n:>4} x {n:<4}{row['parameters']:>6} parameters: {work}; {row['seconds']:.1f} "
            f"s;\n        traces {row['prior']:.4f} and {row['posterior']:.4f}, "
            f"{row['effective parameters']:.1f} effective parameters, first neglected eigenvalue "
            f"{row['neglected']:.1e}, {row['posterior seconds']:.1f} s"
        )
