"""Networks on facets of all kinds of meshes, and of both sides' values."""

from firedrake import *
from mpi4py import MPI

import femnn
from tests.verification.problems.common import TIGHT, controls, square


@controls("weights", "field", "time")
def boundary_law(comm=MPI.COMM_WORLD):
    """A heat flux as a network of u, x and time, on a part of the boundary."""
    mesh, V, u, v = square(comm)
    t = Constant(0.4, name="t")
    x, y = SpatialCoordinate(mesh)
    outside = Function(V, name="outside").interpolate(1 + x)
    net = femnn.MLP(3, 10, 1, output="softplus", seed=1)
    transfer = femnn.NeuralCoefficient(net, u, y, t, measure=ds)
    F = (1 + u**2) * inner(grad(u), grad(v)) * dx - 3 * v * dx
    F += transfer * (u - outside) * v * ds((1, 2))
    femnn.solve(F == 0, u, DirichletBC(V, 0, 3), solver_parameters=TIGHT)
    J = femnn.assemble((u - x) ** 4 * dx + 0.1 * transfer**2 * ds)
    return J, [transfer.weights, outside, t]


@controls("weights", "operand")
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


@controls("weights", "vector of both gradients", "operand", "constant")
def interior_law(comm=MPI.COMM_WORLD, quadrilateral=False):
    """Discontinuous unknowns: a stiffness of mean and jump, and a law of both sides' gradients."""
    mesh = UnitSquareMesh(5, 4, quadrilateral=quadrilateral, comm=comm)
    V = FunctionSpace(mesh, "DQ" if quadrilateral else "DG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    x, y = SpatialCoordinate(mesh)
    n = FacetNormal(mesh)
    m = Function(V, name="m").interpolate(x * y)
    c = Constant(0.6, name="c")
    net = femnn.MLP(3, 8, 1, output="softplus", seed=1)
    stiffness = femnn.NeuralCoefficient(net, c * avg(u), jump(u) ** 2, avg(m), measure=dS, degree=4)
    flux = femnn.NeuralCoefficient(
        femnn.MLP(2, 6, 2, seed=2), avg(grad(u)), measure=dS, degree=4, shape=(2,)
    )
    F = (1 + u**2) * inner(grad(u), grad(v)) * dx + u * v * dx - 3 * x * m * v * dx
    F += 10 * stiffness("+") * jump(u) * jump(v) * dS
    F += 3 * inner(avg(flux), jump(v, n)) * dS
    femnn.solve(F == 0, u, solver_parameters=TIGHT)
    J = femnn.assemble((u - x) ** 4 * dx + 0.1 * stiffness("-") ** 2 * dS)
    return J, [stiffness.weights, flux.weights, m, c]


@controls("weights", "vector of both gradients", "operand", "constant")
def interior_law_on_quadrilaterals(comm=MPI.COMM_WORLD):
    """The same on quadrilaterals."""
    return interior_law(comm, quadrilateral=True)


@controls("weights", "initial")
def upwind_law(comm=MPI.COMM_WORLD):
    """Transport in time with a learned numerical flux of the upwind and the downwind value."""
    mesh = UnitSquareMesh(5, 4, comm=comm)
    V = FunctionSpace(mesh, "DG", 0)
    u, un, v = Function(V, name="u"), Function(V, name="un"), TestFunction(V)
    x, y = SpatialCoordinate(mesh)
    velocity, n = as_vector([1.0, 0.5]), FacetNormal(mesh)
    start = Function(V, name="start").interpolate(sin(pi * x) * sin(pi * y))
    un.assign(start)
    u.assign(start)
    forward = gt(dot(velocity, n("+")), 0)
    upwind = conditional(forward, u("+"), u("-"))
    downwind = conditional(forward, un("-"), un("+"))
    speed = dot(velocity, n("+"))
    flux = femnn.NeuralCoefficient(
        femnn.MLP(2, 6, 1, seed=3), upwind, downwind, measure=dS, degree=2
    )
    F = (u - un) / 0.05 * v * dx + speed * flux("+") * jump(v) * dS
    solver = femnn.NeuralVariationalSolver(
        femnn.NeuralVariationalProblem(F, u), solver_parameters=TIGHT
    )
    J = 0
    for _ in range(3):
        solver.solve()
        un.assign(u)
        J += femnn.assemble((u - x) ** 4 * dx)
    return J, [flux.weights, start]


@controls("weights", "operand", "constant")
def explicit_interface(comm=MPI.COMM_WORLD):
    """A law of both sides of a known field, evaluated before the solve."""
    mesh = UnitSquareMesh(5, 4, comm=comm)
    V = FunctionSpace(mesh, "DG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    x, y = SpatialCoordinate(mesh)
    m = Function(V, name="m").interpolate(conditional(lt(x, 0.4), x * y, 1 + y))
    c = Constant(0.6, name="c")
    net = femnn.MLP(2, 8, 1, output="softplus", seed=1)
    stiffness = femnn.NeuralCoefficient(
        net, m("+") * m("-"), c * jump(m) ** 2, measure=dS, degree=4
    )
    F = (1 + u**2) * inner(grad(u), grad(v)) * dx + u * v * dx - 3 * x * v * dx
    F += 10 * stiffness("+") * jump(u) * jump(v) * dS
    femnn.solve(F == 0, u, solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 4 * dx), [stiffness.weights, m, c]


@controls("weights", "operand")
def boundary_law_on_quadrilaterals(comm=MPI.COMM_WORLD):
    """A heat flux as a network of the surface's temperature, on quadrilaterals of degree 2."""
    mesh = UnitSquareMesh(4, 3, quadrilateral=True, comm=comm)
    V = FunctionSpace(mesh, "Q", 2)
    u, v = Function(V, name="u"), TestFunction(V)
    x = SpatialCoordinate(mesh)[0]
    outside = Function(V, name="outside").interpolate(1 + x)
    net = femnn.MLP(2, 8, 1, output="softplus", seed=1)
    transfer = femnn.NeuralCoefficient(net, u, outside, measure=ds)
    F = (1 + u**2) * inner(grad(u), grad(v)) * dx - 3 * v * dx
    F += transfer * (u - outside) * v * ds((1, 2))
    femnn.solve(F == 0, u, DirichletBC(V, 0, 3), solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 4 * dx + 0.1 * transfer**2 * ds), [transfer.weights, outside]


@controls("boundaries", "interfaces", "operand")
def extruded_facets(comm=MPI.COMM_WORLD):
    """Laws on all five kinds of facets of an extruded mesh, with one network for all sides."""
    mesh = ExtrudedMesh(UnitSquareMesh(2, 2, comm=comm), 2)
    V = FunctionSpace(mesh, "DG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    x, y, z = SpatialCoordinate(mesh)
    m = Function(V, name="m").interpolate(x * y + z)
    outer = femnn.MLP(2, 6, 1, output="softplus", seed=1)
    inner_law = femnn.MLP(2, 6, 1, output="softplus", seed=2)
    F = (1 + u**2) * inner(grad(u), grad(v)) * dx + u * v * dx - 3 * x * v * dx
    for measure in (ds_v, ds_t, ds_b):
        transfer = femnn.NeuralCoefficient(outer, u, m, measure=measure, degree=2)
        F += transfer * (u - 1) * v * measure
    for measure in (dS_v, dS_h):
        stiffness = femnn.NeuralCoefficient(
            inner_law, avg(u), jump(u) ** 2, measure=measure, degree=2
        )
        F += 5 * stiffness("+") * jump(u) * jump(v) * measure
    femnn.solve(F == 0, u, solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 4 * dx), [transfer.weights, stiffness.weights, m]
