"""Operator splitting: a network's ordinary differential equations between solves."""

import numpy as np
import torch
from firedrake import *
from mpi4py import MPI

import femnn
from tests.verification.problems.common import TIGHT, controls


class Rates(torch.nn.Module):
    """A smooth reaction of a field and a state, with forcing in time: an exact law."""

    def forward(self, x):
        u, s, t = x.T
        return torch.stack([u * (1 - u) - s + 0.3 * torch.sin(3 * t), 0.5 * (u - s)], dim=1)


def reaction_diffusion(splitting, net, steps, method="rk4", comm=MPI.COMM_WORLD, degree=2):
    """A field with diffusion (Crank-Nicolson) and a state without, to T = 1.

    Returns the splitting, before its first step, and the initial values.
    """
    mesh = UnitIntervalMesh(20, comm=comm)
    V = FunctionSpace(mesh, "CG", degree)
    (x,) = SpatialCoordinate(mesh)
    start = Function(V, name="start").interpolate(sin(pi * x) ** 2)
    u, un = Function(V, name="u").assign(start), Function(V, name="un")
    state = Function(V, name="state").interpolate(0.3 * x)
    v, dt, t = TestFunction(V), Constant(1 / steps, name="dt"), Constant(0.0, name="t")
    F = (u - un) / dt * v * dx + 0.1 * inner(grad((u + un) / 2), grad(v)) * dx
    solver = femnn.NeuralVariationalSolver(
        femnn.NeuralVariationalProblem(F, u), solver_parameters=TIGHT
    )
    scheme = splitting(solver, un, net, dt=dt, time=t, states=[state], method=method)
    return scheme, start


@controls("weights", "initial")
def lie(comm=MPI.COMM_WORLD, method="rk4"):
    """Lie splitting with a network of field, state and time."""
    return _split(femnn.LieSplitting, comm, method)


@controls("weights", "initial")
def strang(comm=MPI.COMM_WORLD, method="sdirk2"):
    """Strang splitting with an implicit method for the network's part."""
    return _split(femnn.StrangSplitting, comm, method)


def _split(kind, comm, method):
    net = femnn.MLP(3, 8, 2, seed=1)
    scheme, start = reaction_diffusion(kind, net, 4, method, comm)
    J = 0
    for _ in range(4):
        scheme.step()
        u, state = scheme.solution
        J += femnn.assemble((u - 0.5) ** 4 * dx + state**2 * u * dx)
    return J, [scheme.weights, start]


@controls("weights", "operand")
def lie_at_quadrature_points(comm=MPI.COMM_WORLD):
    """Network and state at quadrature points in two dimensions, a field as operand."""
    mesh = UnitSquareMesh(4, 3, comm=comm)
    V, Q = FunctionSpace(mesh, "CG", 1), FunctionSpace(mesh, "Quadrature", 3)
    x, y = SpatialCoordinate(mesh)
    u, v = Function(V, name="u").interpolate(x * y), TestFunction(V)
    un, state = Function(Q, name="un"), Function(Q, name="state").interpolate(x)
    m = Function(V, name="m").interpolate(1 + x)
    dt = Constant(0.2)
    F = (u - un) / dt * v * dx(degree=3) + 0.1 * inner(grad(u), grad(v)) * dx
    solver = femnn.NeuralVariationalSolver(
        femnn.NeuralVariationalProblem(F, u), solver_parameters=TIGHT
    )
    scheme = femnn.LieSplitting(
        solver, un, femnn.MLP(3, 8, 2, seed=1), m, dt=dt, states=[state], method="heun"
    )
    for _ in range(3):
        scheme.step()
    return femnn.assemble((u - 0.5) ** 4 * dx + state**4 * dx(degree=3)), [scheme.weights, m]


def final(scheme, steps):
    """Nodal values of field and state after all steps."""
    for _ in range(steps):
        scheme.step()
    return np.concatenate([f.dat.data_ro for f in scheme.solution])
