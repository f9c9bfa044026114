"""Networks at nodes, and parameters from attributes."""

import numpy as np
import torch
from firedrake import *
from mpi4py import MPI

import femnn
from tests.verification.problems.common import TIGHT, controls, square


@controls("dirichlet", "initial", "elements", "attribute")
def nodal_values(comm=MPI.COMM_WORLD):
    """Dirichlet data, an initial state and parameters of elements as networks."""
    mesh, V, u, v = square(comm)
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


@controls("encoder", "inside", "attribute", "constant")
def torch_on_the_tape(comm=MPI.COMM_WORLD):
    """Torch modules as nodes of the tape, before a solve with a network inside."""
    mesh, V, u, v = square(comm)
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


class PerSite(torch.nn.Module):
    """Positive parameters of each site from its attributes, and from a number for all."""

    def __init__(self, attributes, parameters):
        super().__init__()
        self.attributes = torch.tensor(attributes, dtype=torch.float64)
        n_inputs = self.attributes.shape[1] + 1
        self.law = femnn.MLP(n_inputs, 6, parameters, output="softplus", seed=4)

    def forward(self, number):
        numbers = number.expand(len(self.attributes), 1)
        return self.law(torch.cat([self.attributes, numbers], 1)).flatten()


@controls("attributes", "inside", "constant")
def subdomains(comm=MPI.COMM_WORLD):
    """A parameter of each subdomain from its attributes; in one of them a law of u as well."""
    plain = UnitSquareMesh(6, 5, comm=comm)
    x = SpatialCoordinate(plain)[0]
    D = FunctionSpace(plain, "DG", 0)
    parts = [conditional(lt(x, 0.4), 1, 0), conditional(lt(x, 0.4), 0, 1)]
    mesh = RelabeledMesh(plain, [Function(D).interpolate(p) for p in parts], [1, 2])
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    y = SpatialCoordinate(mesh)[1]
    c = Constant(0.7, name="c")
    net = PerSite([[0.1, 1.0], [0.8, -0.5]], 1)
    theta = femnn.apply(net, c, into=Constant([0.0, 0.0]))
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 6, 1, output="softplus", seed=3), u)
    F = (0.2 + theta[0]) * inner(grad(u), grad(v)) * dx(1) - 5 * y * v * dx
    F += (0.2 + theta[1]) * kappa * inner(grad(u), grad(v)) * dx(2)
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    J = femnn.assemble((u - y) ** 4 * dx(1) + (u - y) ** 4 * dx(2))
    return J, [femnn.Weights.of(net), kappa.weights, c]


@controls("attributes", "constant")
def sites(comm=MPI.COMM_WORLD):
    """Three columns, each with two parameters from its attributes by one network."""
    mesh = UnitIntervalMesh(8, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    v, (x,) = TestFunction(V), SpatialCoordinate(mesh)
    climate = Constant(0.7, name="climate")
    net = PerSite([[0.1, 1.0], [0.8, -0.5], [-0.4, 0.3]], 2)
    theta = femnn.apply(net, climate, into=Constant(np.zeros(6)))
    J = 0
    for site in range(3):
        u = Function(V, name=f"u{site}")
        conductivity, decay = theta[2 * site], theta[2 * site + 1]
        F = conductivity * (1 + u**2) * inner(grad(u), grad(v)) * dx
        F += decay * u**3 * v * dx - 4 * climate * v * dx
        femnn.solve(F == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
        J += femnn.assemble((u - x) ** 4 * dx)
    return J, [femnn.Weights.of(net), climate]


@controls("weights", "number", "source")
def one_number_observed_at_points(comm=MPI.COMM_WORLD):
    """A law with one number of a Real space as operand, and observations at points."""
    mesh, V, u, v = square(comm, n=6)
    R = FunctionSpace(mesh, "R", 0)
    number = Function(R, name="number").assign(0.7)
    m = Function(V, name="m").interpolate(SpatialCoordinate(mesh)[0])
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 6, 1, output="softplus", seed=1), u, number)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * m * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    stations = VertexOnlyMesh(mesh, [[0.31, 0.22], [0.55, 0.61], [0.72, 0.43]])
    at_stations = assemble(interpolate(u, FunctionSpace(stations, "DG", 0)))
    return assemble((at_stations - 0.1) ** 4 * dx), [kappa.weights, number, m]
