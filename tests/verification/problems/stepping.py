"""Steps in time: Irksome's methods, and adaptive lengths."""

import torch
from firedrake import *
from irksome import Alexander, Dt, RadauIIA
from mpi4py import MPI

import femnn
from tests.verification.problems import splitting
from tests.verification.problems.common import TIGHT, controls


class Conductivity(torch.nn.Module):
    """1 + u^2 / 2: an exact law."""

    def forward(self, u):
        return 1 + u**2 / 2


def heat_error(tableau, steps, moving=False, bc_type="DAE"):
    """Error at T = 1 of a nonlinear heat equation whose solution is in the space at all times.

    The network's operand has the time; boundary values are zero, or move.
    """
    mesh = UnitIntervalMesh(2)
    V = FunctionSpace(mesh, "CG", 2)
    (x,) = SpatialCoordinate(mesh)
    t, dt = Constant(0.0), Constant(1 / steps)
    shape = 1 + x**2 if moving else x * (1 - x)
    exact = sin(2 * t) * shape + (x if moving else 0)
    u, v = Function(V).interpolate(exact), TestFunction(V)
    kappa = femnn.NeuralCoefficient(Conductivity(), u * (1 + t), degree=8)
    law = 1 + (exact * (1 + t)) ** 2 / 2
    f = 2 * cos(2 * t) * shape - div(law * grad(exact))
    F = Dt(u) * v * dx + kappa * inner(grad(u), grad(v)) * dx - f * v * dx(degree=8)
    bcs = [DirichletBC(V, exact if moving else 0, place) for place in (1, 2)]
    stepper = femnn.TimeStepper(F, tableau, t, dt, u, bcs, bc_type=bc_type, solver_parameters=TIGHT)
    for _ in range(steps):
        stepper.advance()
        t.assign(float(t) + float(dt))
    return errornorm(exact, u, "L2")


@controls("law", "source", "flux", "initial", "boundary")
def coupled_stages(comm=MPI.COMM_WORLD):
    """Laws of the unknown, of the time and on the boundary; boundary values that move."""
    mesh = UnitSquareMesh(5, 4, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    start = Function(V, name="start").interpolate(sin(pi * x) * y)
    u, v = Function(V, name="u").assign(start), TestFunction(V)
    g = Function(V, name="g").interpolate(0.3 * y)
    t, dt = Constant(0.0, name="t"), Constant(0.1, name="dt")
    law = femnn.MLP(1, 8, 1, output="softplus", seed=1)
    kappa = femnn.NeuralCoefficient(law, u)
    source = femnn.NeuralCoefficient(femnn.MLP(3, 6, 1, seed=2), x, y, t)
    flux = femnn.NeuralCoefficient(femnn.MLP(2, 6, 1, seed=3), u, t, measure=ds)
    F = Dt(u) * v * dx + kappa * inner(grad(u), grad(v)) * dx - source * v * dx + flux * v * ds(4)
    bcs = [DirichletBC(V, t * y, 1), DirichletBC(V, g, 2)]
    stepper = femnn.TimeStepper(F, RadauIIA(2), t, dt, u, bcs, solver_parameters=TIGHT)
    J = 0
    for _ in range(2):
        stepper.advance()
        t.assign(float(t) + float(dt))
        J += femnn.assemble((u - x * y) ** 4 * dx)
    return J, [kappa.weights, source.weights, flux.weights, start, g]


@controls("rates", "initial", seed=2)
def stages_one_by_one(comm=MPI.COMM_WORLD):
    """A field and a state as mixed unknowns, a network of both and of a rate."""
    mesh = UnitIntervalMesh(12, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    W = V * V
    (x,) = SpatialCoordinate(mesh)
    start = Function(V, name="start").interpolate(sin(pi * x) + x)
    w = Function(W, name="w")
    w.subfunctions[0].assign(start)
    w.subfunctions[1].assign(0.5 * start)
    u, s = split(w)
    v, _ = TestFunctions(W)
    t, dt = Constant(0.0, name="t"), Constant(0.1, name="dt")
    rates = femnn.NeuralCoefficient(femnn.MLP(3, 8, 2, seed=4), u, s, Dt(u))
    F = inner(Dt(w), TestFunction(W)) * dx + 0.3 * inner(grad(u), grad(v)) * dx
    F -= inner(rates, TestFunction(W)) * dx
    bcs = [DirichletBC(W.sub(0), x + t, 1)]
    stepper = femnn.TimeStepper(F, Alexander(), t, dt, w, bcs, solver_parameters=TIGHT)
    J = 0
    for _ in range(2):
        stepper.advance()
        t.assign(float(t) + float(dt))
        J += femnn.assemble(((u - x) ** 2 + (s - 1) ** 2) * dx)
    return J, [rates.weights, start]


class Quench(torch.nn.Module):
    """A rate that falls from 10^4 to 1 where the state passes 1/2: an exact, stiff law."""

    def forward(self, u):
        return 1 + 1e4 * torch.sigmoid(20 * (u - 0.6))


class Theta:
    """du/dt = 0.1 u'' - rate(u) u on an interval, by a theta scheme that counts its steps."""

    def __init__(self, net, theta=1.0, comm=MPI.COMM_WORLD, first=0.1):
        mesh = UnitIntervalMesh(6, comm=comm)
        V = FunctionSpace(mesh, "CG", 1)
        (x,) = SpatialCoordinate(mesh)
        self.start = Function(V, name="start").interpolate(1 + x / 10)
        self.u, self.un = Function(V, name="u").assign(self.start), Function(V, name="un")
        self.t, self.dt = Constant(0.0, name="t"), Constant(first, name="dt")
        v = TestFunction(V)
        self.calls = 0

        def rate(u):
            self.rate = femnn.NeuralCoefficient(net, u)
            return self.rate * u * v * dx + 0.1 * inner(grad(u), grad(v)) * dx

        F = (self.u - self.un) / self.dt * v * dx + theta * rate(self.u)
        F += Constant(1 - theta) * rate(self.un) if theta < 1 else 0
        problem = femnn.NeuralVariationalProblem(F, self.u)
        self.solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)

    def step(self):
        self.calls += 1
        self.un.assign(self.u)
        self.solver.solve()


def _integrated(steps, u, t):
    """Steps to two times, the integral in time of a functional, and one of the end."""
    J = 0
    for end in (0.3, 0.5):
        while float(t) < end:
            J += steps.step(end) * femnn.assemble((u - 0.3) ** 4 * dx)
    return J + femnn.assemble(u**3 * dx)


@controls("weights", "initial")
def adaptive_theta(comm=MPI.COMM_WORLD):
    """Crank-Nicolson with networks at both time levels."""
    net = torch.nn.Sequential(femnn.MLP(1, 8, 1, seed=1), Stiff())
    model = Theta(net, 0.5, comm)
    steps = femnn.AdaptiveSteps(model.step, [model.u], model.dt, model.t, order=2, rtol=2.5e-2)
    return _integrated(steps, model.u, model.t), [model.rate.weights, model.start]


class Stiff(torch.nn.Module):
    """From a number to a rate between 1 and some hundreds."""

    def forward(self, x):
        return 1 + 300 * torch.sigmoid(x)


@controls("weights", "initial")
def adaptive_strang(comm=MPI.COMM_WORLD):
    """Strang splitting, which advances the time on its own, with a state."""
    net = femnn.MLP(3, 8, 2, seed=3)
    scheme, start = splitting.reaction_diffusion(femnn.StrangSplitting, net, 10, comm=comm)
    steps = femnn.AdaptiveSteps(
        scheme.step, scheme.solution, scheme.dt, scheme.time, order=2, rtol=1e-3
    )
    return _integrated(steps, scheme.solution[0], scheme.time), [scheme.weights, start]


@controls("weights", "initial")
def adaptive_stages(comm=MPI.COMM_WORLD):
    """Irksome's stages, a law of the unknown and the time, boundary values that move."""
    mesh = UnitIntervalMesh(6, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    (x,) = SpatialCoordinate(mesh)
    start = Function(V, name="start").interpolate(sin(pi * x))
    u, v = Function(V, name="u").assign(start), TestFunction(V)
    t, dt = Constant(0.0, name="t"), Constant(0.2, name="dt")
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 8, 1, output="softplus", seed=1), u, t)
    F = Dt(u) * v * dx + kappa * inner(grad(u), grad(v)) * dx
    bcs = [DirichletBC(V, sin(4 * t), 1)]
    stepper = femnn.TimeStepper(F, RadauIIA(2), t, dt, u, bcs, solver_parameters=TIGHT)
    steps = femnn.AdaptiveSteps(stepper.advance, [u], dt, t, order=3, rtol=1e-2)
    return _integrated(steps, u, t), [kappa.weights, start]
