"""A diffusion problem with a network: values, gradients, orders."""

import contextlib
import io

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}
LU = {"ksp_type": "preonly", "pc_type": "lu", **TIGHT}


def mlp(n_inputs=1, n_outputs=1, seed=1, dtype=torch.float64):
    return femnn.MLP(n_inputs, 8, n_outputs, output="softplus", seed=seed, dtype=dtype)


def poisson(V, net=None, nonlinear=True, tangent=None, **options):
    """kappa(u) or kappa(x) in a diffusion with advection: value, gradient and functional."""
    get_working_tape().clear_tape()
    net = mlp(1 if nonlinear else 2) if net is None else net
    u, v, f = Function(V, name="u"), TestFunction(V), Function(V, name="f").assign(10.0)
    x, y = SpatialCoordinate(V.mesh())
    kappa = femnn.NeuralCoefficient(net, *((u,) if nonlinear else (x, y)))
    F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    if nonlinear:
        F += dot(as_vector([1.0, 0.5]), grad(u)) * v * dx
    J = None if tangent is None else tangent(kappa, u, v)
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, x, "on_boundary"), J=J)
    options = {"solver_parameters": LU, **options}
    continue_annotation()
    solver = femnn.NeuralVariationalSolver(problem, **options)
    solver.solve()
    loss = assemble((u - x * y) ** 2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(loss, Control(kappa.weights))
    return Jhat, kappa, solver, u, f


def recorded_blocks():
    return [type(block).__name__ for block in get_working_tape().get_blocks()]


def values_and_gradients(Jhat, kappa):
    """At the weights that were recorded and at others."""
    results = []
    for shift in (0.0, 0.3):
        value = Jhat(kappa.weights.like(kappa.weights.vector + shift))
        results.append((value, Jhat.derivative().vector))
    return results


def check_same(results, expected, tolerance):
    for (value, gradient), (value0, gradient0) in zip(results, expected, strict=True):
        assert value == pytest.approx(value0, rel=tolerance)
        assert np.linalg.norm(gradient - gradient0) < tolerance * np.linalg.norm(gradient0)
        assert np.linalg.norm(gradient0) > 1e-4


def taylor_order(Jhat, kappa):
    rng = np.random.default_rng(0)
    here = kappa.weights.like(kappa.weights.vector + 0.2)
    direction = kappa.weights.like(rng.standard_normal(len(kappa.weights)))
    with contextlib.redirect_stdout(io.StringIO()):
        return taylor_test(Jhat, here, direction)
