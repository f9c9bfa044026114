"""Multigrid in meshes and degrees: the same solutions and gradients as with LU."""

import warnings

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.variational.levels import _ToCoarserPoints
from tests.unit.solves.diffusion import LU, TIGHT, check_same, mlp, taylor_order
from tests.unit.solves.diffusion import values_and_gradients as both

GMRES = {"ksp_type": "gmres", "ksp_rtol": 1e-12, **TIGHT}
MG = {**GMRES, "pc_type": "mg"}
P1PC = {**GMRES, "pc_type": "python", "pc_python_type": "firedrake.P1PC"}
FAS = {
    "snes_type": "fas",
    "snes_rtol": 1e-12,
    "snes_atol": 1e-12,
    "fas_levels_snes_type": "newtonls",
    "fas_levels_pc_type": "lu",
    "fas_levels_snes_max_it": 1,
    "fas_coarse_snes_type": "newtonls",
    "fas_coarse_pc_type": "lu",
    "fas_coarse_snes_rtol": 1e-10,
    "fas_coarse_snes_atol": 1e-12,
}
PFAS = {
    "snes_type": "python",
    "snes_python_type": "firedrake.PMGSNES",
    "pfas_snes_max_it": 6,
    "snes_rtol": 1e-11,
    "snes_atol": 1e-12,
    "pfas_fas_levels_snes_type": "newtonls",
    "pfas_fas_levels_pc_type": "lu",
    "pfas_fas_levels_ksp_type": "preonly",
    "pfas_fas_levels_snes_max_it": 1,
    "pfas_fas_coarse_snes_type": "newtonls",
    "pfas_fas_coarse_ksp_type": "preonly",
    "pfas_fas_coarse_pc_type": "lu",
    "pfas_fas_coarse_snes_atol": 1e-12,
}


def hierarchy(base=None, levels=2):
    return MeshHierarchy(UnitSquareMesh(4, 4) if base is None else base, levels)[-1]


def diffusion(mesh, degree, parameters, law="u", **options):
    """A diffusion with a network of the named operands, and one of position and data beside it."""
    get_working_tape().clear_tape()
    V = FunctionSpace(mesh, "CG", degree)
    u, v = Function(V, name="u"), TestFunction(V)
    x, *_ = SpatialCoordinate(mesh)
    f = Function(FunctionSpace(mesh, "DG", 1)).interpolate(1 + x)
    operands, places = {
        "u": ((u,), [dx]),
        "u, grad u and data": ((u, inner(grad(u), grad(u)), f), [dx]),
        "x and data": ((x, f), [dx]),
        "u on ds": ((u,), [ds]),
        "x on ds": ((x,), [ds]),
        "jumps on dS": ((avg(u), f("+") + f("-")), [dS]),
    }[law]
    net = mlp(len(operands))
    kappa = femnn.NeuralCoefficient(net, *operands, measure=places[0])
    F = inner(grad(u), grad(v)) * dx + u**3 * v * dx - 10 * v * dx
    if places == [dx]:
        F += kappa * inner(grad(u), grad(v)) * dx
    elif places == [ds]:
        F += kappa * u * v * ds
    else:
        F += kappa * inner(jump(grad(u)), jump(grad(v))) * 0.01 * dS
    bcs = [] if places == [ds] else DirichletBC(V, x, "on_boundary")
    continue_annotation()
    problem = femnn.NeuralVariationalProblem(F, u, bcs)
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=parameters, **options)
    solver.solve()
    loss = assemble((u - x) ** 2 * dx)
    pause_annotation()
    return ReducedFunctional(loss, Control(kappa.weights)), kappa, solver


LAWS = ["u, grad u and data", "x and data", "u on ds", "x on ds", "jumps on dS"]


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("law", LAWS)
def test_multigrid_gives_what_lu_gives(law):
    mesh = hierarchy()
    expected = both(*diffusion(mesh, 1, LU, law)[:2])
    Jhat, kappa, solver = diffusion(mesh, 1, MG, law)
    assert solver.snes.getKSP().getIterationNumber() < 20, "the preconditioner is none"
    assert solver.snes.getKSP().getPC().getType() == "mg"
    check_same(both(Jhat, kappa), expected, 1e-7)


def test_taylor_with_multigrid():
    Jhat, kappa, _ = diffusion(hierarchy(), 1, MG)
    assert taylor_order(Jhat, kappa) > 1.95


@pytest.mark.parallel([1, 2])
def test_lower_degrees():
    """P1PC keeps the points of the networks' values, with or without meshes below."""
    mesh = hierarchy()
    expected = both(*diffusion(mesh, 3, LU, LAWS[0])[:2])
    for coarse in ({"pmg_mg_coarse_pc_type": "lu"}, {"pmg_mg_coarse_pc_type": "mg"}):
        Jhat, kappa, solver = diffusion(mesh, 3, {**P1PC, **coarse}, LAWS[0])
        assert solver.snes.getKSP().getIterationNumber() < 20, "the preconditioner is none"
        check_same(both(Jhat, kappa), expected, 1e-7)


def test_preconditioners_inside_others():
    mesh = hierarchy()
    expected = both(*diffusion(mesh, 2, LU)[:2])
    assembled = {
        **GMRES,
        "mat_type": "matfree",
        "pc_type": "python",
        "pc_python_type": "firedrake.AssembledPC",
    }
    p1 = {"assembled_pc_type": "python", "assembled_pc_python_type": "firedrake.P1PC"}
    for inside in ({"assembled_pc_type": "mg"}, {**p1, "assembled_pmg_mg_coarse_pc_type": "lu"}):
        Jhat, kappa, solver = diffusion(mesh, 2, {**assembled, **inside})
        assert solver.snes.getKSP().getIterationNumber() < 20, "the preconditioner is none"
        check_same(both(Jhat, kappa), expected, 1e-7)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize(
    ("degree", "parameters", "law"),
    [(1, FAS, LAWS[0]), (3, PFAS, "u on ds"), (2, PFAS, "u")],
    ids=["h", "p", "p, Dirichlet"],
)
def test_nonlinear_multigrid(degree, parameters, law):
    """Coarser levels' residuals hold the network of their own iterates."""
    mesh = hierarchy()
    expected = both(*diffusion(mesh, degree, LU, law)[:2])
    Jhat, kappa, solver = diffusion(mesh, degree, parameters, law)
    assert solver.snes.getIterationNumber() < 8, "coarser levels do not correct"
    check_same(both(Jhat, kappa), expected, 1e-7)


def test_coarser_networks_are_those_of_coarser_operands():
    """After a solve: the network at the coarse points, against its own module there."""
    _, kappa, solver = diffusion(hierarchy(levels=1), 1, MG)
    (network,) = solver.state.networks
    (level,) = network.levels
    problem = solver.state.solver._ctx._coarse._problem
    at = Function(level.terms.value.function_space()).interpolate(problem.u)
    expected = kappa.evaluator.value_and_derivative(at.dat.data_ro[:, None], kappa.weights.vector)
    assert np.ptp(at.dat.data_ro) > 0.5, "the coarse unknown was not injected"
    assert level.terms.value.dat.data_ro == pytest.approx(np.ravel(expected[0]), abs=1e-13)
    slope = np.ravel(level.terms.slope.dat.data_ro)
    assert slope == pytest.approx(np.ravel(expected[1]), abs=1e-13)


@pytest.mark.parallel([1, 2])
def test_data_at_points_are_those_of_the_nearest_finer_point():
    coarse, fine = MeshHierarchy(UnitSquareMesh(4, 4), 1)
    f, c = (Function(femnn.QuadratureSpace(m, 4)) for m in (fine, coarse))
    x, y = SpatialCoordinate(fine)
    f.interpolate(x + 2 * y)
    _ToCoarserPoints()(f, c)
    x, y = SpatialCoordinate(coarse)
    exact = Function(c.function_space()).interpolate(x + 2 * y)
    h = 1 / 8
    assert np.abs(c.dat.data_ro - exact.dat.data_ro).max() < h
    assert np.ptp(exact.dat.data_ro) > 4 * h


def test_multigrid_in_a_block():
    """Stokes' velocity block with multigrid, a law of the velocity's gradient."""

    def stokes(mesh, parameters):
        get_working_tape().clear_tape()
        W = VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)
        w, (v, q) = Function(W), TestFunctions(W)
        u, p = split(w)
        x, y = SpatialCoordinate(mesh)
        law = femnn.NeuralCoefficient(mlp(), inner(grad(u), grad(u)), degree=4)
        F = inner((1 + law) * grad(u), grad(v)) * dx - p * div(v) * dx - q * div(u) * dx
        F -= 1e-2 * p * q * dx + dot(as_vector([10 * y, -5 * x]), v) * dx
        continue_annotation()
        bc = DirichletBC(W.sub(0), 0, "on_boundary")
        femnn.solve(F == 0, w, bc, solver_parameters=parameters)
        J = assemble(inner(split(w)[0], as_vector([y, -(x**2)])) * dx)
        pause_annotation()
        return both(ReducedFunctional(J, Control(law.weights)), law)

    mesh = hierarchy(levels=1)
    blocks = {
        "ksp_type": "fgmres",
        "ksp_rtol": 1e-11,
        "mat_type": "nest",
        "pc_type": "fieldsplit",
        "pc_fieldsplit_type": "schur",
        "pc_fieldsplit_schur_fact_type": "full",
        "fieldsplit_0_ksp_type": "gmres",
        "fieldsplit_0_ksp_rtol": 1e-10,
        "fieldsplit_0_pc_type": "mg",
        "fieldsplit_1_ksp_type": "gmres",
        "fieldsplit_1_ksp_rtol": 1e-8,
        "fieldsplit_1_pc_type": "none",
        **TIGHT,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_same(
            stokes(mesh, blocks),
            stokes(mesh, {"mat_type": "aij", "pc_factor_mat_solver_type": "mumps", **LU}),
            1e-6,
        )
