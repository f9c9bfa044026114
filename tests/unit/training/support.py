"""The problem that trainings are tested on, and functionals that count or fail."""

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from femnn.training.result import FitResult

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


class Fragile(torch.nn.Module):
    """A law that is not a number where a weight has left its range by more than ``reach``."""

    def __init__(self, reach):
        super().__init__()
        self.net, self.reach = femnn.MLP(1, 6, 1, output="softplus", seed=1), reach
        self.start = torch.cat([p.detach().reshape(-1) for p in self.net.parameters()])

    def forward(self, x):
        now = torch.cat([p.detach().reshape(-1) for p in self.net.parameters()])
        if (now - self.start).norm() > self.reach:
            return self.net(x) * float("nan")
        return self.net(x)


class Failing(torch.nn.Module):
    """Raises from some evaluation on."""

    def __init__(self):
        super().__init__()
        self.net, self.left = femnn.MLP(1, 6, 1, output="softplus", seed=1), None

    def forward(self, x):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("the device is gone")
        return self.net(x)


def poisson(net=None, comm=MPI.COMM_SELF, n=8, noise=0.0, scale=1.0, explicit=None):
    """Recover 1 + u^2 from u: the reduced functional and the coefficient."""
    net = femnn.MLP(1, 6, 1, output="softplus", seed=1) if net is None else net
    mesh = UnitSquareMesh(n, n, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    v, bc = TestFunction(V), DirichletBC(V, 0, "on_boundary")
    x, y = SpatialCoordinate(mesh)
    seen, u = Function(V), Function(V)
    solve((1 + seen**2) * inner(grad(seen), grad(v)) * dx - 10 * v * dx == 0, seen, bc)
    seen.assign(seen + noise)
    kappa = femnn.NeuralCoefficient(net, u)
    source = 10 if explicit is None else femnn.NeuralCoefficient(explicit, x, y)
    F = kappa * inner(grad(u), grad(v)) * dx - source * v * dx
    get_working_tape().clear_tape()
    continue_annotation()
    femnn.solve(F == 0, u, bc, solver_parameters=TIGHT)
    J = assemble(scale * (u - seen) ** 2 * dx)
    pause_annotation()
    coefficients = [kappa] if explicit is None else [kappa, source]
    controls = [Control(c.weights) for c in coefficients]
    Jhat = ReducedFunctional(J, controls if explicit is not None else controls[0])
    return Jhat, coefficients if explicit is not None else kappa


def rate(method, value):
    """Adam's learning rate; L-BFGS has none."""
    return {"learning_rate": value} if method == "Adam" else {}


def check_consistency(result, Jhat, kappa):
    """What holds for every result, however the training ended."""
    assert isinstance(result, FitResult)
    assert np.array_equal(result.weights, kappa.weights.vector), "the net has other weights"
    assert result.history[0].loss == result.initial_loss
    assert result.history[0].iteration == 0
    assert result.history[0].evaluations == 1
    assert [s.iteration for s in result.history] == list(range(len(result.history)))
    assert result.iterations == result.history[-1].iteration
    assert result.evaluations >= result.history[-1].evaluations
    seconds = [s.seconds for s in result.history]
    assert seconds == sorted(seconds)
    assert result.seconds >= seconds[-1] > 0
    assert result.loss <= min(s.loss for s in result.history)
    assert Jhat(kappa.weights.like(result.weights)) == pytest.approx(result.loss, rel=1e-8)
    norm = np.linalg.norm(Jhat.derivative().vector)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-5, abs=1e-12)


def gradient_at(Jhat, weights):
    Jhat(weights)
    return Jhat.derivative().vector


class Counting:
    """A reduced functional whose evaluations are counted."""

    def __init__(self, Jhat):
        self.Jhat, self.calls, self.controls = Jhat, 0, Jhat.controls

    tape = property(lambda self: self.Jhat.tape)
    functional = property(lambda self: self.Jhat.functional)

    def __call__(self, values):
        self.calls += 1
        return self.Jhat(values)

    def derivative(self):
        return self.Jhat.derivative()


class FailsAt:
    """A reduced functional whose evaluation with this number fails."""

    def __init__(self, Jhat, number):
        self.Jhat, self.left, self.controls = Jhat, number, Jhat.controls

    def __call__(self, values):
        self.left -= 1
        if self.left == 0:
            raise ConvergenceError("the solver has failed")
        return self.Jhat(values)

    def derivative(self):
        return self.Jhat.derivative()
