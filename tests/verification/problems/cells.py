"""Networks in cells: coefficients, fluxes, sources, tensors; mixed and vector unknowns."""

from firedrake import *
from mpi4py import MPI

import femnn
from tests.verification.problems.common import TIGHT, controls, square


@controls("weights", "source", "boundary", "constant")
def kappa_of_u(comm=MPI.COMM_WORLD):
    """kappa(u), with weight decay, a source field, a boundary field and a Constant as controls."""
    mesh, V, u, v = square(comm)
    x, y = SpatialCoordinate(mesh)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 12, 12, 1, output="softplus", seed=1), u)
    f = Function(V, name="f").interpolate(10 + x)
    g = Function(V, name="g").interpolate(x * y)
    c = Constant(1.3, name="c")
    F = kappa * inner(grad(u), grad(v)) * dx - c * f * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, g, "on_boundary"), solver_parameters=TIGHT)
    J = assemble((u - x) ** 2 * dx) + 1e-3 * kappa.weights.squared_norm() ** 2
    return J, [kappa.weights, f, g, c]


@controls("weights", "source")
def kappa_of_x(comm=MPI.COMM_WORLD):
    """kappa(x), known before the solve, with penalties on its value and its gradient in space."""
    mesh, V, u, v = square(comm)
    x, y = SpatialCoordinate(mesh)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 10, 1, output="exp", seed=1), x, y)
    f = Function(V, name="f").assign(10.0)
    F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    penalty = 1e-2 * inner(kappa.grad(), kappa.grad()) + 0.1 * kappa**2
    return femnn.assemble((u - x) ** 4 * dx + penalty * dx), [kappa.weights, f]


@controls("weights", "constant")
def source_of_a_constant(comm=MPI.COMM_WORLD):
    """A source that is known before the solve and depends on a Constant."""
    mesh, V, u, v = square(comm)
    x, y = SpatialCoordinate(mesh)
    c = Constant(0.7, name="c")
    source = femnn.NeuralCoefficient(femnn.MLP(2, 10, 1, seed=1), c * x, y**2)
    F = inner(grad(u), grad(v)) * dx - source * c * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    return femnn.assemble((u - c * x) ** 2 * dx), [source.weights, c]


@controls("weights", "operand")
def kappa_of_u_and_gradient(comm=MPI.COMM_WORLD):
    """kappa(u, grad u, m) on P2, which stands in the functional as well."""
    mesh, V, u, v = square(comm, degree=2, n=5)
    x, y = SpatialCoordinate(mesh)
    m = Function(V, name="m").interpolate(sin(3 * x) * y)
    net = femnn.MLP(4, 10, 1, output="softplus", seed=1)
    kappa = femnn.NeuralCoefficient(net, u, grad(u), m)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 2 * dx + 0.1 * kappa**2 * dx), [kappa.weights, m]


@controls("shared", "vector", "boundary", seed=6)
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


@controls("weights", "source")
def conductivity_tensor(comm=MPI.COMM_WORLD):
    """A symmetric positive definite conductivity K(u, x)."""
    mesh, V, u, v = square(comm, n=6)
    f = Function(V, name="f").assign(5.0)
    net = femnn.SPDTensor(femnn.MLP(3, 8, 3, seed=1), 2, smallest=0.1)
    K = femnn.NeuralCoefficient(net, u, *SpatialCoordinate(mesh), shape=(2, 2))
    F = inner(K * grad(u), grad(v)) * dx - f * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, (1, 3)), solver_parameters=TIGHT)
    return femnn.assemble(u**4 * dx + 0.1 * tr(K) ** 2 * dx), [K.weights, f]


@controls("weights", "operand", "load")
def stress_tensor(comm=MPI.COMM_WORLD):
    """A symmetric stress of the strain and of a field: vector unknowns."""
    mesh = UnitSquareMesh(5, 4, comm=comm)
    V, P = VectorFunctionSpace(mesh, "CG", 1), FunctionSpace(mesh, "CG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    x, y = SpatialCoordinate(mesh)
    m = Function(P, name="m").interpolate(sin(3 * x) * y)
    load = Function(V, name="load").interpolate(as_vector([0.5 * y, x - 1]))
    strain = sym(grad(u))
    net = femnn.SymmetricTensor(femnn.MLP(4, 8, 3, seed=2), 2)
    stress = femnn.NeuralCoefficient(net, strain[0, 0], strain[1, 1], strain[0, 1], m, shape=(2, 2))
    F = inner(2 * strain + 0.5 * stress, grad(v)) * dx - dot(load, v) * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
    return femnn.assemble(1e2 * dot(u, u) ** 2 * dx), [stress.weights, m, load]


@controls("weights", "operand")
def convex_potential(comm=MPI.COMM_WORLD):
    """A flux that is the gradient of a potential, convex in grad u, of a field as well."""
    mesh, V, u, v = square(comm, n=6)
    x, y = SpatialCoordinate(mesh)
    m = Function(V, name="m").interpolate(x * y)
    potential = femnn.ConvexMLP(3, 8, 8, 1, convex=[0, 1], seed=1)
    slope = femnn.NeuralCoefficient(femnn.Gradient(potential), grad(u), m)
    flux = as_vector([slope[0], slope[1]]) + 0.1 * grad(u)
    F = dot(flux, grad(v)) * dx - 2 * x * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, y, "on_boundary"), solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 4 * dx), [slope.weights, m]


@controls("weights", "load", "matrix")
def polyconvex_potential(comm=MPI.COMM_WORLD):
    """An elastic energy, polyconvex in the deformation: vector unknowns, large strains."""
    mesh = UnitSquareMesh(4, 3, comm=comm)
    V = VectorFunctionSpace(mesh, "CG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    x, y = SpatialCoordinate(mesh)
    load = Function(V, name="load").interpolate(as_vector([0.2 * y, 0.3 * (x - 1)]))
    before = Constant([[0.5, 0.1], [0.0, 0.5]], name="before")
    F = Identity(2) + grad(u)
    J, cofactor = det(F), cofac(F).T
    energy = femnn.ConvexMLP(2, 8, 1, increasing=[0], seed=1)
    slope = femnn.NeuralCoefficient(femnn.Gradient(energy), tr(F.T * F) - 2, J - 1, degree=4)
    stress = (1 + 2 * slope[0]) * F + (slope[1] + J - 1 - 1 / J) * cofactor - before
    residual = inner(stress, grad(v)) * dx - dot(load, v) * dx
    femnn.solve(residual == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
    return femnn.assemble(dot(u, u) ** 2 * dx), [slope.weights, load, before]


@controls("weights", "source")
def resistance_of_flow(comm=MPI.COMM_WORLD):
    """Flow in a porous medium in Raviart-Thomas elements: mixed unknowns, a flux as operand."""
    mesh = UnitSquareMesh(5, 4, comm=comm)
    W = FunctionSpace(mesh, "RT", 1) * FunctionSpace(mesh, "DG", 0)
    w, (tau, q) = Function(W, name="w"), TestFunctions(W)
    sigma, p = split(w)
    x, y = SpatialCoordinate(mesh)
    f = Function(W.sub(1), name="f").interpolate(1 + x * y)
    net = femnn.MLP(2, 8, 1, output="softplus", seed=1)
    resistance = femnn.NeuralCoefficient(net, dot(sigma, sigma), p, degree=3)
    F = ((0.5 + resistance) * dot(sigma, tau) - p * div(tau) - (div(sigma) - f) * q) * dx
    femnn.solve(F == 0, w, solver_parameters=TIGHT)
    return femnn.assemble(((p - x) ** 4 + dot(sigma, sigma) * y) * dx), [resistance.weights, f]
