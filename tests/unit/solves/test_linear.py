"""Linear problems whose matrix is factorised: solved from their source alone, as by Firedrake."""

import contextlib
import io

import numpy as np
import pytest
import ufl
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.variational.tangent import TangentSolves

CHOLESKY = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}


class Model:
    """Reaction and diffusion with everything in it that can change."""

    def __init__(self, drift=0.0, **options):
        mesh = UnitSquareMesh(6, 6)
        V = FunctionSpace(mesh, "CG", 1)
        x, y = SpatialCoordinate(mesh)
        self.u, self.old, self.k = Function(V, name="u"), Function(V), Function(V).assign(1.0)
        self.source, self.edge, self.drift = Constant(1.0), Constant(0.0), Constant(drift)
        v = TestFunction(V)
        self.weight = assemble(x * v * dx)
        flow = self.drift * self.u.dx(0) * v * dx
        self.F = self.k * inner(grad(self.u), grad(v)) * dx + (self.u - self.old) * v * dx + flow
        self.F -= self.source * v * dx
        self.bc = DirichletBC(V, self.edge * (1 + y), "on_boundary")
        self.problem = femnn.NeuralVariationalProblem(
            self.F + self.weight, self.u, self.bc, is_linear=True
        )
        self.solver = femnn.NeuralVariationalSolver(self.problem, **options)

    @property
    def linear(self):
        return self.solver._solves.forward._linear

    def by_firedrake(self):
        w = self.u.copy(deepcopy=True)
        solve(ufl.replace(self.F, {self.u: w}) + self.weight == 0, w, self.bc)
        return w


@pytest.fixture
def residuals(monkeypatch):
    """How many residuals of each solver were assembled."""
    from firedrake.solving_utils import _SNESContext

    seen, own = [], _SNESContext.form_function

    def form_function(*args):
        seen.append(1)
        own(*args)

    monkeypatch.setattr(_SNESContext, "form_function", staticmethod(form_function))
    return seen


@pytest.mark.parallel([1, 2])
def test_as_firedrake_whatever_changes(residuals):
    model = Model()
    x, y = SpatialCoordinate(model.u.function_space().mesh())
    model.solver.solve()
    assert len(residuals) == 1
    assert model.linear.is_ready
    changes = [
        lambda: model.source.assign(3.0),
        lambda: model.k.interpolate(1 + x),
        lambda: model.old.interpolate(x * y),
        lambda: model.edge.assign(2.0),
        lambda: model.k.interpolate(2 + y),
        lambda: model.old.assign(model.u),
        lambda: model.weight.assign(assemble(y * TestFunction(model.u.function_space()) * dx)),
        lambda: model.edge.assign(0.0),
    ]
    for change in changes:
        change()
        model.solver.solve()
        del residuals[:]
        expected = model.by_firedrake()
        assert len(residuals) > 0  # what is counted above is Firedrake's
        del residuals[:]
        assert errornorm(expected, model.u) < 1e-12 * norm(expected)
        model.solver.solve()
        assert not residuals


def test_the_source_is_assembled_where_it_has_changed():
    model = Model()
    kept, own = [], model.linear._assemble
    model.linear._assemble = lambda key, *args: (kept.append(key), own(key, *args))
    for _ in range(3):
        model.solver.solve()
        model.k.assign(model.k + 1)
    assert kept == ["source"]
    model.source.assign(2.0)
    model.solver.solve()
    assert kept == 2 * ["source"]
    mesh = model.u.function_space().mesh()
    mesh.coordinates.assign(1.5 * mesh.coordinates)
    model.solver.solve()
    assert kept == 3 * ["source"]
    model.edge.assign(1.0)
    model.solver.solve()
    assert kept == [*(3 * ["source"]), "residual"]


@pytest.mark.parametrize(
    "options",
    [
        {"solver_parameters": {"snes_monitor": None}},
        {"solver_parameters": {"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-10}},
        {"pre_function_callback": lambda X: None},
    ],
    ids=["monitor", "iterative", "callback"],
)
def test_what_asks_for_firedrakes_own_way(options, residuals):
    with contextlib.redirect_stdout(io.StringIO()):
        model = Model(**options)
        model.solver.solve()
        before = len(residuals)
        model.source.assign(2.0)
        model.solver.solve()
    assert not model.linear.is_ready
    assert len(residuals) > before > 0


def test_what_only_seems_linear_is_not_taken_for_it():
    """The tangent is constant, but the residual jumps with the unknown's sign."""
    model = Model()
    v = TestFunction(model.u.function_space())
    for term in (sign(model.u) * v * dx, conditional(gt(model.u, 0), 1, 2) * v * dx):
        problem = femnn.NeuralVariationalProblem(model.F + term, model.u, model.bc, is_linear=True)
        solver = femnn.NeuralVariationalSolver(problem)
        solver.solve()
        assert solver.state.constant_tangent
        assert not solver._solves.forward._linear.is_ready


def test_a_solve_that_fails_says_why_and_the_next_one_works():
    model = Model()
    model.solver.solve()
    model.solver.solve()
    expected = model.u.copy(deepcopy=True)
    model.source.assign(np.nan)
    with pytest.raises(ConvergenceError, match="NaN or infinite values were found in"):
        model.solver.solve()
    assert np.array_equal(model.u.dat.data_ro, expected.dat.data_ro)
    model.source.assign(1.0)
    model.solver.solve()
    assert errornorm(expected, model.u) < 1e-12


def compliance(model, extra=0.0):
    """The work of the source, plus a part that is none, at other values of a field."""
    with set_working_tape() as tape:
        continue_annotation()
        model.solver.solve()
        work = model.source * model.u * dx + model.old * model.u * dx
        x, _ = SpatialCoordinate(model.u.function_space().mesh())
        J = femnn.assemble(work + Constant(extra) * x * model.u * dx)
        pause_annotation()
        return ReducedFunctional(J, Control(model.k), tape=tape)


@pytest.mark.parametrize(
    ("drift", "extra", "solved"),
    [(0.0, 0.0, 0), (0.0, 1e-6, 1), (5.0, 0.0, 1)],
    ids=["self-adjoint", "another right side", "not symmetric"],
)
def test_the_adjoint_of_compliance_is_known(drift, extra, solved, monkeypatch):
    """Where the right side or the matrix is another, it is solved for."""
    model = Model(drift)
    model.weight.assign(0.0)
    Jhat = compliance(model, extra)
    calls, own = [], TangentSolves._solve_shared

    def counted(*args):
        calls.append(1)
        own(*args)

    monkeypatch.setattr(TangentSolves, "_solve_shared", counted)
    V = model.u.function_space()
    at, along = Function(V).assign(2.0), Function(V)
    along.dat.data_wo[:] = np.random.default_rng(0).uniform(-1, 1, len(along.dat.data_ro))
    with contextlib.redirect_stdout(io.StringIO()):
        assert taylor_test(Jhat, at, along) > 1.95
    assert len(calls) == solved


@pytest.mark.parametrize("where", ["everywhere", 1, (1, 2)])
def test_the_source_is_integrated_as_in_the_residual(where):
    """The form compiler gives a sum over the same cells the highest degree that a part needs."""
    mesh = UnitSquareMesh(4, 4)
    V = FunctionSpace(mesh, "CG", 2)
    x, y = SpatialCoordinate(mesh)
    w, v = TrialFunction(V), TestFunction(V)
    jump_inside = conditional(gt(x + y, 0.6), 1.0, 0.0)
    a = inner(grad(w), grad(v)) * dx + (1 + x**4) * w * v * dx + (1 + y**4) * w * v * ds
    L = jump_inside * v * dx + jump_inside * v * ds(where)
    u, expected = Function(V), Function(V)
    solve(a == L, expected)
    solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem.linear(a, L, u))
    for _ in range(2):
        solver.solve()
        assert errornorm(expected, u) < 1e-11 * norm(expected)
    assert solver._solves.forward._linear.is_ready


def test_a_known_adjoint_is_judged_for_each_part_of_a_mixed_space():
    """The matrix of the small part is not symmetric, and the large one's is."""
    mesh = UnitSquareMesh(4, 4)
    W = MixedFunctionSpace([FunctionSpace(mesh, "CG", 1)] * 2)
    x, y = SpatialCoordinate(mesh)
    found = []
    for scale in (1.0, 1e13):
        w, drift = Function(W), Function(FunctionSpace(mesh, "R", 0)).assign(5.0)
        (p, c), (q, d) = split(w), TestFunctions(W)
        large, small = Constant(scale) * (1 + x), x + y**2
        F = (inner(grad(p), grad(q)) + p * q - large * q) * dx
        F += (inner(grad(c), grad(d)) + c * d + drift * c.dx(0) * d - small * d) * dx
        solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, w, is_linear=True))
        solver.solve()
        with set_working_tape() as tape:
            continue_annotation()
            solver.solve()
            J = femnn.assemble((large * p + small * c) * dx)
            pause_annotation()
            gradient = ReducedFunctional(J, Control(drift), tape=tape).derivative()
            found.append(float(gradient.dat.data_ro[0]))
    assert np.isclose(*found, rtol=1e-10)
