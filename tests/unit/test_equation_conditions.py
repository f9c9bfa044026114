"""Conditions that are equations of their own on a part of the boundary."""

from functools import partial

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from femnn.parallel import on_rank_zero
from tests.unit import models
from tests.unit.models import law
from tests.unit.solves.diffusion import TIGHT
from tests.verification.derivatives import Recording, model
from tests.verification.test_derivatives import check, measured

square = partial(models.square, n=5)


@model("inside", "law", "f", "c", "g", "h", seed=3)
def cooled(comm=MPI.COMM_WORLD, parameters=TIGHT, tangent=None, **options):
    """A law of heat transfer in a condition, with Dirichlet conditions inside of it and beside."""
    V, u, v, x, y = square(comm, degree=2)
    f, g = Function(V, name="f").interpolate(5 + x), Function(V, name="g").interpolate(1 + x * y)
    h, c = Function(V, name="h").interpolate(1 + y), Constant(1.3, name="c")
    n = FacetNormal(V.mesh())
    kappa = femnn.NeuralCoefficient(law(), u)
    transfer = femnn.NeuralCoefficient(law(2, seed=2), u, h, measure=ds)
    F = kappa * inner(grad(u), grad(v)) * dx - c * f * v * dx
    cold = DirichletBC(V, c * g**2, 3)
    boiling = (dot(grad(u), n) + transfer * c * (u - h**2)) * v * ds(2)
    conditions = [EquationBC(boiling == 0, u, 2, bcs=[cold]), cold, DirichletBC(V, g, 1)]
    source = femnn.assemble(f**2 * v * dx)
    J = None if tangent is None else tangent(kappa, u, v)
    options = {"solver_parameters": parameters, "J": J, **options}
    femnn.solve(F - 0.1 * source == 0, u, conditions, **options)
    J = femnn.assemble(u**2 * dx + x * u * dx)
    return J, [kappa.weights, transfer.weights, f, c, g, h]


@model("weights", "g", "c")
def linear(comm=MPI.COMM_WORLD):
    """A linear problem in time with a projected boundary value."""
    V, u, v, x, y = square(comm)
    un, w = Function(V, name="un"), TrialFunction(V)
    g, c = Function(V, name="g").interpolate(1 + y), Constant(0.7, name="c")
    kappa = femnn.NeuralCoefficient(law(2), x, y)
    ramp = femnn.NeuralCoefficient(law(2, seed=3), x, y, measure=ds)
    a, L = w / 0.1 * v * dx + kappa * inner(grad(w), grad(v)) * dx, (un / 0.1 + 1) * v * dx
    base = DirichletBC(V, g, (3, 4))
    projected = EquationBC(w * v * ds(1) == c * ramp * g**2 * v * ds(1), u, 1, bcs=[base])
    problem = femnn.NeuralVariationalProblem.linear(a, L, u, [base, projected])
    solver = femnn.NeuralVariationalSolver(problem)
    J = 0
    for _ in range(2):
        solver.solve()
        un.assign(u)
        J += femnn.assemble(u**4 * dx)
    return J, [ramp.weights, g, c]


@model("weights", "f")
def mixed(comm=MPI.COMM_WORLD):
    """A condition for a part of a mixed unknown."""
    V, _, _, x, _ = square(comm)
    W = V * V
    w, (v, q) = Function(W, name="w"), TestFunctions(W)
    u, p = split(w)
    f = Function(V, name="f").interpolate(4 + x)
    kappa = femnn.NeuralCoefficient(law(), p)
    rise = femnn.NeuralCoefficient(law(2, seed=2), u, p, measure=ds)
    F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    F += inner(grad(p), grad(q)) * dx + (p - u**2) * q * dx
    condition = EquationBC((p - rise * f) * q * ds(2) == 0, w, 2, V=W.sub(1))
    conditions = [DirichletBC(W.sub(0), x, (1, 2)), condition]
    femnn.solve(F == 0, w, conditions, solver_parameters=TIGHT)
    return femnn.assemble(u**2 * dx + p**2 * dx), [rise.weights, f]


MODELS = [cooled, linear, mixed]


@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_derivatives(recorded):
    for found in Recording(recorded).accuracy(*recorded.controls):
        check(found)


@pytest.mark.parallel([2])
@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_numbers_are_the_same_on_ranks(recorded):
    numbers, _ = measured(recorded, MPI.COMM_WORLD)
    alone, _ = on_rank_zero(MPI.COMM_WORLD, measured, recorded, MPI.COMM_SELF)
    assert numbers == pytest.approx(alone, rel=1e-9)


def other_tangent(kappa, u, v):
    """Without the derivative of the law in the cells."""
    return kappa * inner(grad(TrialFunction(u.function_space())), grad(v)) * dx


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options",
    [
        {"adjoint_solver_parameters": {"ksp_type": "preonly", "pc_type": "lu"}},
        {"restrict": True},
        {"tangent": other_tangent},
    ],
    ids=lambda options: next(iter(options)),
)
def test_solvers_of_their_own_give_the_same(options):
    expected, _ = measured(cooled, MPI.COMM_WORLD)
    other = model(*cooled.controls, seed=cooled.seed)(lambda comm: cooled(comm, **options))
    numbers, _ = measured(other, MPI.COMM_WORLD)
    assert numbers == pytest.approx(expected, rel=1e-7)


def test_a_linear_solver_without_a_transpose():
    """Firedrake's matrix-free operators have none with these conditions."""
    expected, _ = measured(cooled, MPI.COMM_WORLD)
    free = {**TIGHT, "mat_type": "matfree", "ksp_type": "gmres", "ksp_rtol": 1e-13}
    free |= {"pc_type": "python", "pc_python_type": "firedrake.AssembledPC"}
    free |= {"assembled_pc_type": "lu"}
    other = model(*cooled.controls, seed=cooled.seed)(lambda comm: cooled(comm, parameters=free))
    with pytest.warns(UserWarning, match="it has no transpose"):
        numbers, _ = measured(other, MPI.COMM_WORLD)
    assert numbers == pytest.approx(expected, rel=1e-7)


@pytest.mark.parallel([1, 2])
def test_a_projected_value_is_a_boundary_value():
    """On linear elements the projection of a linear value is the value: all numbers agree."""
    found = []
    V, _, v, _, y = square(COMM_WORLD)  # another one would be spread over the ranks in another way
    for projected in (True, False):
        u = Function(V, name="u")
        f, g = Function(V).interpolate(5 + y), Function(V).interpolate(1 + 2 * y)
        kappa, ends = femnn.NeuralCoefficient(law(), u), DirichletBC(V, g, (3, 4))
        value = DirichletBC(V, g, 1)
        if projected:
            value = EquationBC((u - g) * v * ds(1) == 0, u, 1, bcs=[ends])
        continue_annotation()
        F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
        femnn.solve(F == 0, u, [value, ends], solver_parameters=TIGHT)
        J = femnn.assemble(u**2 * dx)
        pause_annotation()
        Jhat = ReducedFunctional(J, [Control(kappa.weights), Control(f), Control(g)])
        weights, *fields = Jhat.derivative()
        action, *_ = Jhat.hessian([kappa.weights, f, g])
        parts = [d.dat.data_ro for d in fields]
        found.append(np.concatenate([[float(J)], weights.vector, *parts, action.vector]))
    assert np.allclose(*found, rtol=1e-8, atol=1e-11)


def test_rows_that_are_not_those_of_the_matrix_are_an_error():
    V, u, v, x, _ = square(COMM_WORLD)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 5 * v * dx
    conditions = [EquationBC((u - x) * v * ds(1) == 0, u, 1), DirichletBC(V, 1, 3)]
    continue_annotation()
    femnn.solve(F == 0, u, conditions, solver_parameters={"snes_rtol": 1e-6})
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    with pytest.raises(NotImplementedError, match=r"give the DirichletBC to the EquationBC too"):
        ReducedFunctional(J, Control(kappa.weights)).derivative()


def test_equations_that_are_not_supported():
    V, u, v, x, _ = square(COMM_WORLD)
    w, other = TrialFunction(V), Function(V, name="other")
    F = femnn.NeuralCoefficient(law(), u) * inner(grad(u), grad(v)) * dx - v * dx
    form = (u**2 - x) * v * ds(1)
    inner_one = EquationBC(u * v * ds(1) == 0, u, ((1, 3),))
    wrong = {
        "an EquationBC inside": EquationBC(form == 0, u, 1, bcs=[inner_one]),
        "has a tangent J or Jp of its own": EquationBC(form == 0, u, 1, J=u * w * v * ds(1)),
        "holds a FormSum": EquationBC(form - assemble(v * ds(1)) == 0, u, 1),
    }
    for message, condition in wrong.items():
        with pytest.raises(NotImplementedError, match=message):
            femnn.NeuralVariationalProblem(F, u, condition)
    with pytest.raises(ValueError, match="an equation for other, wanted the unknown u"):
        femnn.NeuralVariationalProblem(F, u, EquationBC(other * v * ds(1) == 0, other, 1))
    options = {"bounds": (Function(V), Function(V).assign(1.0))}
    options["solver_parameters"] = {"snes_type": "vinewtonrsls"}
    with pytest.raises(NotImplementedError, match="bounds are given with an EquationBC"):
        femnn.solve(F == 0, u, EquationBC(form == 0, u, 1), **options)
