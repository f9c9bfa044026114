"""One law on cells and spaces of every kind."""

from firedrake import *
from mpi4py import MPI

import femnn
from tests.verification.problems.common import TIGHT, controls


def diffusion(V, degree=None):
    """kappa(u, |grad u|^2, m) with natural boundary conditions; jumps are penalised."""
    u, v = Function(V, name="u"), TestFunction(V)
    x = SpatialCoordinate(V.mesh())[0]
    m = Function(V, name="m").interpolate(3 * sin(3 * x))
    net = femnn.MLP(3, 6, 1, output="softplus", seed=4)
    kappa = femnn.NeuralCoefficient(net, u, inner(grad(u), grad(u)), m, degree=degree)
    F = 0.2 * kappa * inner(grad(u), grad(v)) * dx + u * v * dx - 2 * x * v * dx
    if "DG" in V.ufl_element().family() or "Discontinuous" in V.ufl_element().family():
        F += 10 * jump(u) * jump(v) * dS
    femnn.solve(F == 0, u, solver_parameters=TIGHT)
    return femnn.assemble((u - x) ** 4 * dx), [kappa.weights, m]


@controls("weights", "operand")
def interval(comm=MPI.COMM_WORLD):
    """P1 on an interval."""
    return diffusion(FunctionSpace(UnitIntervalMesh(12, comm=comm), "CG", 1))


@controls("weights", "operand")
def cubic_triangles(comm=MPI.COMM_WORLD):
    """P3 on triangles."""
    return diffusion(FunctionSpace(UnitSquareMesh(4, 3, comm=comm), "CG", 3))


@controls("weights", "operand")
def quartic_triangles(comm=MPI.COMM_WORLD):
    """P4 on triangles."""
    return diffusion(FunctionSpace(UnitSquareMesh(3, 2, comm=comm), "CG", 4))


@controls("weights", "operand")
def discontinuous(comm=MPI.COMM_WORLD):
    """DG1 on triangles."""
    return diffusion(FunctionSpace(UnitSquareMesh(4, 3, comm=comm), "DG", 1))


@controls("weights", "operand")
def quadrilaterals(comm=MPI.COMM_WORLD):
    """Q2 on quadrilaterals."""
    mesh = UnitSquareMesh(4, 3, quadrilateral=True, comm=comm)
    return diffusion(FunctionSpace(mesh, "Q", 2))


@controls("weights", "operand")
def tetrahedra(comm=MPI.COMM_WORLD):
    """P2 on tetrahedra.

    Some higher rules there are not symmetric: what they integrate inexactly depends on the cells'
    numbering, and so on the ranks.
    """
    return diffusion(FunctionSpace(UnitCubeMesh(3, 1, 1, comm=comm), "CG", 2), degree=2)


@controls("weights", "operand")
def prisms(comm=MPI.COMM_WORLD):
    """P1 on an extruded mesh of triangles."""
    mesh = ExtrudedMesh(UnitSquareMesh(3, 2, comm=comm), 2)
    return diffusion(FunctionSpace(mesh, "CG", 1))


@controls("weights", "operand")
def extruded_quadrilaterals(comm=MPI.COMM_WORLD):
    """Q1 on an extruded mesh of quadrilaterals."""
    mesh = ExtrudedMesh(UnitSquareMesh(3, 2, quadrilateral=True, comm=comm), 2)
    return diffusion(FunctionSpace(mesh, "Q", 1))


@controls("weights", "operand")
def sphere(comm=MPI.COMM_WORLD):
    """P2 on the curved triangles of a sphere's surface."""
    mesh = UnitIcosahedralSphereMesh(1, degree=2, comm=comm)
    return diffusion(FunctionSpace(mesh, "CG", 2))
