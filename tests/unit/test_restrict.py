"""Solves on restricted spaces: the same numbers as on the whole ones."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from tests.unit.models import law, square
from tests.unit.solves.diffusion import LU, TIGHT, recorded_blocks
from tests.unit.solves.test_multigrid import FAS, MG
from tests.verification.derivatives import Recording, model
from tests.verification.test_derivatives import check, measured


@model("weights", "f", "g", "c", seed=1)
def nonlinear(comm=MPI.COMM_WORLD, restrict=True):
    """A law of the unknown and its gradient; conditions that overlap; a Cofunction."""
    V, u, v, x, y = square(comm)
    f, g = Function(V, name="f").interpolate(5 + x), Function(V, name="g").interpolate(1 + x * y)
    c = Constant(0.8, name="c")
    kappa = femnn.NeuralCoefficient(law(2), u, inner(grad(u), grad(u)))
    source = femnn.assemble(f**2 * v * dx)
    F = kappa * inner(grad(u), grad(v)) * dx + c * u**2 * v * ds(4) - 0.1 * source
    conditions = [DirichletBC(V, g**2 * c, 1), DirichletBC(V, sin(c * g), 3)]
    options = {"solver_parameters": TIGHT, "restrict": restrict}
    femnn.solve(F == 0, u, conditions, **options)
    return femnn.assemble(u**2 * dx + x * u * dx), [kappa.weights, f, g, c]


@model("c", "g", "weights")
def components(comm=MPI.COMM_WORLD, restrict=True):
    """Vectors: a condition for one component."""
    V, _, _, x, y = square(comm)
    W = VectorFunctionSpace(V.mesh(), "CG", 1)
    u, v = Function(W, name="u"), TestFunction(W)
    c, g = Constant([0.4, 1.2], name="c"), Function(V, name="g").interpolate(1 + y)
    kappa = femnn.NeuralCoefficient(law(), dot(u, u))
    F = kappa * inner(grad(u), grad(v)) * dx - inner(as_vector([5 + x, y]), v) * dx
    conditions = [DirichletBC(W.sub(1), c[1], (1, 2)), DirichletBC(W.sub(0), g**2 * c[0], (1, 2))]
    femnn.solve(F == 0, u, conditions, solver_parameters=TIGHT, restrict=restrict)
    return femnn.assemble(inner(u, u) * dx), [c, g, kappa.weights]


@model("inflow", "weights")
def mixed(comm=MPI.COMM_WORLD, restrict=True):
    """A mixed unknown, solved by blocks."""
    mesh = UnitSquareMesh(4, 3, comm=comm)
    W = VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    w, (v, q) = Function(W, name="w"), TestFunctions(W)
    u, p = split(w)
    viscosity = femnn.NeuralCoefficient(law(), dot(u, u))
    F = viscosity * inner(grad(u), grad(v)) * dx - (p * div(v) + q * div(u)) * dx
    inflow = Function(FunctionSpace(mesh, "CG", 2), name="inflow").interpolate(4 * y * (1 - y))
    conditions = [
        DirichletBC(W.sub(0), as_vector([inflow**2, 0]), 1),
        DirichletBC(W.sub(0), 0, (3, 4)),
    ]
    schur = {
        "ksp_type": "fgmres",
        "ksp_rtol": 1e-13,
        "pc_type": "fieldsplit",
        "pc_fieldsplit_type": "schur",
        "pc_fieldsplit_schur_fact_type": "full",
        "fieldsplit_0": {"ksp_type": "preonly", "pc_type": "lu"},
        "fieldsplit_1": {"ksp_rtol": 1e-13, "pc_type": "none"},
    }
    options = {"solver_parameters": {**schur, **TIGHT}, "restrict": restrict}
    femnn.solve(F == 0, w, conditions, **options)
    return femnn.assemble(dot(u, u) * dx + p * x * dx), [inflow, viscosity.weights]


@model("start", "g", "weights")
def loop(comm=MPI.COMM_WORLD, restrict=True):
    """Steps in time of a linear problem, whose boundary values move."""
    V, u, v, x, y = square(comm)
    un, w = Function(V, name="un"), TrialFunction(V)
    start, g = Function(V, name="start").interpolate(x), Function(V, name="g").interpolate(1 + y)
    kappa, t = femnn.NeuralCoefficient(law(2), x, y), Constant(0.1)
    a, L = w / 0.1 * v * dx + kappa * inner(grad(w), grad(v)) * dx, (un / 0.1 + 1) * v * dx
    bc = DirichletBC(V, t * g**2, (1, 4))
    problem = femnn.NeuralVariationalProblem.linear(a, L, u, bc, restrict=restrict)
    solver = femnn.NeuralVariationalSolver(problem)
    un.assign(start)
    J = 0
    for step in range(3):
        t.assign(0.5 + step)
        solver.solve()
        un.assign(u)
        J += femnn.assemble(u**2 * dx)
    return J, [start, g, kappa.weights]


MODELS = [nonlinear, components, mixed, loop]


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_numbers_are_those_of_the_whole_space(recorded):
    """Values, gradients, tangent-linear models and Hessian actions, away from the record."""
    whole = model(*recorded.controls, seed=recorded.seed)(
        lambda comm: recorded(comm, restrict=False)
    )
    numbers, vectors = measured(recorded, MPI.COMM_WORLD)
    expected, expected_vectors = measured(whole, MPI.COMM_WORLD)
    assert numbers == pytest.approx(expected, rel=1e-8)
    for vector, wanted in zip(vectors, expected_vectors, strict=True):
        assert np.linalg.norm(vector - wanted) < 1e-8 * np.linalg.norm(wanted)


def test_derivatives():
    for found in Recording(nonlinear).accuracy(*nonlinear.controls):
        check(found)


def test_the_solver_has_the_free_unknowns_only():
    V, u, v, *_ = square(COMM_WORLD)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - v * dx
    for conditions, free in ((DirichletBC(V, 0, (1, 2)), V.dim() - 12), ([], V.dim())):
        problem = femnn.NeuralVariationalProblem(F, u, conditions, restrict=True)
        snes = femnn.NeuralVariationalSolver(problem).snes
        assert snes.getJacobian()[0].getSize() == (free, free)


def test_networks_see_each_iterate():
    """Newton's method converges quadratically, and starts warm from the last solution."""
    V, u, v, x, _ = square(COMM_WORLD)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 5 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, x, (1, 2)), restrict=True)
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    continue_annotation()
    solver.solve()
    norms, _ = solver.snes.getConvergenceHistory()
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    assert recorded_blocks() == ["SolveBlock", "FunctionalBlock"]
    assert len(norms) < 7
    assert norms[-1] < 1e-3 * norms[-2] < 1e-6 * norms[-3]
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    assert Jhat(kappa.weights) == pytest.approx(float(J), rel=1e-12)
    assert solver.snes.getIterationNumber() <= 1


@pytest.mark.parametrize("parameters", [MG, FAS], ids=["mg", "fas"])
def test_multigrid(parameters):
    """Restricted spaces on coarser levels, and networks there."""
    V = FunctionSpace(MeshHierarchy(UnitSquareMesh(4, 4), 1)[-1], "CG", 1)
    x, _ = SpatialCoordinate(V.mesh())
    found = []
    for options, restrict in ((LU, False), (parameters, True)):
        u, v = Function(V), TestFunction(V)
        kappa = femnn.NeuralCoefficient(law(), u)
        F = kappa * inner(grad(u), grad(v)) * dx - 5 * v * dx
        problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, x, 1), restrict=restrict)
        solver = femnn.NeuralVariationalSolver(problem, solver_parameters=options)
        continue_annotation()
        solver.solve()
        J = femnn.assemble(u**2 * dx)
        pause_annotation()
        assert solver.snes.getIterationNumber() < 7
        Jhat = ReducedFunctional(J, Control(kappa.weights))
        found.append((Jhat(kappa.weights.like(kappa.weights.vector + 0.1)), Jhat.derivative()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-8)
    assert np.allclose(found[1][1].vector, found[0][1].vector, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["components", "intersection"])
def test_conditions_that_firedrake_cannot_restrict(kind):
    W = VectorFunctionSpace(UnitSquareMesh(2, 2), "CG", 1)
    u, v = Function(W), TestFunction(W)
    F = femnn.NeuralCoefficient(law(), u[0]) * inner(grad(u), grad(v)) * dx
    conditions = {
        "components": [DirichletBC(W, Constant([0, 0]), 1), DirichletBC(W.sub(0), 0, 2)],
        "intersection": [DirichletBC(W, Constant([0, 0]), ((1, 3),))],
    }[kind]
    with pytest.raises(NotImplementedError, match="Leave out restrict=True"):
        femnn.solve(F == 0, u, conditions, restrict=True)
