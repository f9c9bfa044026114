"""Small problems with networks in each place, for the tests of gradients and of rank invariance.

Each function records its model on the tape and returns the functional and the controls.
"""

import contextlib
import io

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


def _square(comm, degree=1, n=8):
    mesh = UnitSquareMesh(n, n - 1, comm=comm)
    V = FunctionSpace(mesh, "CG", degree)
    return mesh, V, Function(V, name="u"), TestFunction(V)


def kappa_of_u(comm=MPI.COMM_WORLD):
    """kappa(u), with weight decay, a source field, a boundary field and a Constant as controls."""
    mesh, V, u, v = _square(comm)
    x, y = SpatialCoordinate(mesh)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 12, 12, 1, output="softplus", seed=1), u)
    f = Function(V, name="f").interpolate(10 + x)
    g = Function(V, name="g").interpolate(x * y)
    c = Constant(1.3, name="c")
    F = kappa * inner(grad(u), grad(v)) * dx - c * f * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, g, "on_boundary"), solver_parameters=TIGHT)
    J = assemble((u - x) ** 2 * dx) + 1e-3 * kappa.weights.squared_norm() ** 2
    return J, [kappa.weights, f, g, c]


def kappa_of_x(comm=MPI.COMM_WORLD):
    """kappa(x), known before the solve, with penalties on its value and its gradient in space."""
    mesh, V, u, v = _square(comm)
    x, y = SpatialCoordinate(mesh)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 10, 1, output="exp", seed=1), x, y)
    f = Function(V, name="f").assign(10.0)
    F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    penalty = 1e-2 * inner(kappa.grad(), kappa.grad()) + 0.1 * kappa**2
    return femnn.assemble((u - x) ** 4 * dx + penalty * dx), [kappa.weights, f]


def source_of_a_constant(comm=MPI.COMM_WORLD):
    """A source that is known before the solve and depends on a Constant."""
    mesh, V, u, v = _square(comm)
    x, y = SpatialCoordinate(mesh)
    c = Constant(0.7, name="c")
    source = femnn.NeuralCoefficient(femnn.MLP(2, 10, 1, seed=1), c * x, y**2)
    F = inner(grad(u), grad(v)) * dx - source * c * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    return femnn.assemble((u - c * x) ** 2 * dx), [source.weights, c]


def kappa_of_u_and_gradient(comm=MPI.COMM_WORLD):
    """kappa(u, grad u, m) on P2, which stands in the functional as well."""
    mesh, V, u, v = _square(comm, degree=2, n=5)
    x, y = SpatialCoordinate(mesh)
    m = Function(V, name="m").interpolate(sin(3 * x) * y)
    net = femnn.MLP(4, 10, 1, output="softplus", seed=1)
    kappa = femnn.NeuralCoefficient(net, u, grad(u), m)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 2 * dx + 0.1 * kappa**2 * dx), [kappa.weights, m]


def time_loop(comm=MPI.COMM_WORLD):
    """An implicit diffusivity, a source of the last time level, moving boundary values."""
    mesh, V, u, v = _square(comm)
    x, y = SpatialCoordinate(mesh)
    u0 = Function(V, name="u0").interpolate(sin(pi * x) * sin(pi * y))
    u.assign(u0)
    un = Function(V, name="un").assign(u0)
    g = Function(V, name="g")
    t = Constant(0.0, name="t")
    diffusivity = femnn.NeuralCoefficient(femnn.MLP(1, 10, 1, output="softplus", seed=1), u)
    source = femnn.NeuralCoefficient(femnn.MLP(4, 8, 1, seed=2), un, x, y, t)
    F = (u - un) / 0.1 * v * dx + diffusivity * inner(grad(u), grad(v)) * dx - source * v * dx
    bcs = [DirichletBC(V, t * x, 1), DirichletBC(V, g, 2)]
    problem = femnn.NeuralVariationalProblem(F, u, bcs)
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    J = 0
    for step in range(1, 5):
        t.assign(0.1 * step)
        g.assign(0.5 * g + 0.1)
        solver.solve()
        un.assign(u)
        J += femnn.assemble((u - x * y) ** 2 * dx)
    return J, [diffusivity.weights, source.weights, u0]


def several_coefficients(comm=MPI.COMM_WORLD):
    """Mixed unknowns, a viscosity, a vector of forces and one network in two places."""
    mesh = UnitSquareMesh(5, 4, comm=comm)
    W = VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)
    w = Function(W, name="w")
    u, p = split(w)
    v, q = TestFunctions(W)
    x, y = SpatialCoordinate(mesh)
    strain = sym(grad(u))
    law = femnn.MLP(1, 10, 1, output="softplus", seed=1)
    viscosity = femnn.NeuralCoefficient(law, inner(strain, strain))
    drag = femnn.NeuralCoefficient(law, dot(u, u), degree=viscosity.degree)
    force = femnn.NeuralCoefficient(femnn.MLP(4, 8, 2, seed=3), u, x, p)
    F = (viscosity * inner(strain, grad(v)) + drag * dot(u, v) + dot(force, v)) * dx
    F += (-p * div(v) - q * div(u)) * dx
    inflow = Function(W.sub(0), name="inflow").interpolate(as_vector([4 * y * (1 - y), 0]))
    bcs = [DirichletBC(W.sub(0), inflow, 1), DirichletBC(W.sub(0), 0, (3, 4))]
    femnn.solve(F == 0, w, bcs, solver_parameters=TIGHT)
    u, p = split(w)
    return femnn.assemble(inner(u, u) * dx + p * x * dx), [viscosity.weights, force.weights, inflow]


def boundary_law(comm=MPI.COMM_WORLD):
    """A heat flux as a network of the surface's temperature, on a part of the boundary."""
    mesh, V, u, v = _square(comm)
    x, y = SpatialCoordinate(mesh)
    outside = Function(V, name="outside").interpolate(1 + x)
    net = femnn.MLP(2, 10, 1, output="softplus", seed=1)
    transfer = femnn.NeuralCoefficient(net, u, y, measure=ds)
    F = (1 + u**2) * inner(grad(u), grad(v)) * dx - 3 * v * dx
    F += transfer * (u - outside) * v * ds((1, 2))
    femnn.solve(F == 0, u, DirichletBC(V, 0, 3), solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 4 * dx + 0.1 * transfer**2 * ds), [transfer.weights, outside]


def interface_law(comm=MPI.COMM_WORLD):
    """Discontinuous unknowns coupled by a network of position and of a field on the facets."""
    mesh = UnitSquareMesh(6, 5, comm=comm)
    V = FunctionSpace(mesh, "DG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    x, y = SpatialCoordinate(mesh)
    P = FunctionSpace(mesh, "CG", 1)
    m = Function(P, name="m").interpolate(x * y)
    net = femnn.MLP(3, 10, 1, output="softplus", seed=1)
    stiffness = femnn.NeuralCoefficient(net, x, y, m, measure=dS)
    F = (1 + u**2) * inner(grad(u), grad(v)) * dx + u * v * dx - 3 * x * v * dx
    F += 10 * avg(stiffness) * jump(u) * jump(v) * dS
    femnn.solve(F == 0, u, solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 4 * dx), [stiffness.weights, m]


def nodal_values(comm=MPI.COMM_WORLD):
    """Dirichlet data, an initial state and parameters of elements as networks."""
    mesh, V, u, v = _square(comm)
    x, y = SpatialCoordinate(mesh)
    D = FunctionSpace(mesh, "DG", 0)
    attribute = Function(D, name="attribute").interpolate(sin(4 * x) * y)
    g = femnn.NeuralCoefficient(femnn.MLP(2, 8, 1, seed=1), x, y, space=V)
    start = femnn.NeuralCoefficient(femnn.MLP(2, 8, 1, seed=2), x, y, space=V)
    theta = femnn.NeuralCoefficient(
        femnn.MLP(1, 8, 1, output="softplus", seed=3), attribute, space=D
    )
    start.update()
    un = Function(V, name="un").interpolate(start)
    F = (u - un) * v * dx + theta * (1 + u**2) * inner(grad(u), grad(v)) * dx
    femnn.solve(F == 0, u, DirichletBC(V, g, "on_boundary"), solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 4 * dx), [g.weights, start.weights, theta.weights, attribute]


class Encoder(torch.nn.Module):
    """Maps attributes of elements and a number for all of them to one value for each element."""

    def __init__(self):
        super().__init__()
        self.law = femnn.MLP(2, 8, 1, output="softplus", seed=5)

    def forward(self, attribute, number):
        both = torch.stack([attribute, number.expand_as(attribute)], dim=1)
        return self.law(both)[:, 0]


class Mean(torch.nn.Module):
    """Two numbers from one: the same on every rank."""

    def __init__(self):
        super().__init__()
        self.law = femnn.MLP(1, 6, 2, seed=6)

    def forward(self, number):
        return self.law(number.reshape(1, 1))[0]


def torch_on_the_tape(comm=MPI.COMM_WORLD):
    """Torch modules as nodes of the tape, before a solve with a network inside."""
    mesh, V, u, v = _square(comm)
    x, y = SpatialCoordinate(mesh)
    D = FunctionSpace(mesh, "DG", 0)
    attribute = Function(D, name="attribute").interpolate(sin(4 * x) * y)
    c = Constant(0.7, name="c")
    encoder = Encoder()
    theta = femnn.apply(encoder, attribute, c, into=D)
    forces = femnn.apply(Mean(), c, into=Constant([0.0, 0.0]))
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 8, 1, output="softplus", seed=1), u)
    F = theta * kappa * inner(grad(u), grad(v)) * dx - (5 + forces[0] * x + forces[1]) * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    weights = femnn.Weights.of(encoder)
    return femnn.assemble((u - x) ** 4 * dx), [weights, kappa.weights, attribute, c]


def _near(value):
    """The same value, and a point some way off, and a direction: independent of the ranks."""
    rng = np.random.default_rng(0)
    if isinstance(value, femnn.Weights):
        away = value.like(value.vector + 0.3 * rng.standard_normal(len(value)))
        return value.like(value.vector), away, value.like(rng.standard_normal(len(value)))
    if isinstance(value, Constant):
        return Constant(value), Constant(float(value) * 1.2), Constant(1.0)
    with stop_annotating():
        space = value.function_space()
        x = SpatialCoordinate(space.mesh())
        wave = cos(3 * x[0] + 5 * list(x)[-1])
        wave = wave if value.ufl_shape == () else as_vector([wave, -wave])
        direction = Function(space).interpolate(wave)
        away = Function(space).assign(value + 0.2 * direction)
        return value.copy(deepcopy=True), away, direction


def taylor_orders(model, which):
    """Orders of the Taylor remainder, where the tape was recorded and away from it."""
    continue_annotation()
    J, controls = model()
    pause_annotation()
    control = controls[which]
    Jhat = ReducedFunctional(J, Control(control))
    here, away, direction = _near(control)
    assert np.isclose(Jhat(here), J, rtol=1e-9), "the tape does not reproduce the model"
    with contextlib.redirect_stdout(io.StringIO()):
        return taylor_test(Jhat, here, direction), taylor_test(Jhat, away, direction)


def second_order(model, which):
    """For each of two points: order of the remainder with the Hessian's action, and the errors
    of the tangent-linear model (against the gradient) and of the Hessian's symmetry."""
    continue_annotation()
    J, controls = model()
    pause_annotation()
    control = controls[which]
    Jhat = ReducedFunctional(J, Control(control))
    here, away, direction = _near(control)
    other = direction._ad_mul(0.5)._ad_add(away)
    results = []
    for point in (here, away):
        Jhat(point)
        gradient = Jhat.derivative()
        slope = direction._ad_dot(gradient)
        tlm = abs(Jhat.tlm(direction) - slope) / abs(slope)
        along = Jhat.hessian(direction)
        curvature = direction._ad_dot(along)
        one_way = other._ad_dot(along)
        other_way = direction._ad_dot(Jhat.hessian(other))
        with contextlib.redirect_stdout(io.StringIO()):
            order = taylor_test(Jhat, point, direction, dJdm=slope, Hm=curvature)
        symmetry = abs(one_way - other_way) / abs(one_way)
        results.append((order, tlm, symmetry))
    return results


def value_and_gradient(model, comm):
    """Value and weight gradient away from where the tape was recorded."""
    get_working_tape().clear_tape()
    continue_annotation()
    J, controls = model(comm)
    pause_annotation()
    weights = [c for c in controls if isinstance(c, femnn.Weights)]
    Jhat = ReducedFunctional(J, [Control(w) for w in weights])
    value = Jhat([_near(w)[1] for w in weights])
    return value, np.concatenate([g.vector for g in Jhat.derivative()])
