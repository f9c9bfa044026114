"""Irksome's methods with networks, and adaptive steps: orders, what is replayed, failures."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import (
    Control,
    ReducedFunctional,
    annotate_tape,
    continue_annotation,
    get_working_tape,
    pause_annotation,
)
from irksome import Alexander, BackwardEuler, Dt, GaussLegendre, QinZhang, RadauIIA

import femnn
from tests.verification.derivatives import Recording
from tests.verification.problems import PROBLEMS, TIGHT, stepping
from tests.verification.test_derivatives import check

ADAPTIVE = [problem for problem in PROBLEMS if problem.__name__.startswith("adaptive")]


@pytest.mark.parametrize(
    ("tableau", "order", "steps"),
    [
        (BackwardEuler(), 1, 8),
        (QinZhang(), 2, 8),
        (Alexander(), 3, 32),
        (RadauIIA(2), 3, 8),
        (GaussLegendre(2), 4, 8),
    ],
    ids=str,
)
def test_order_in_time(tableau, order, steps):
    errors = [stepping.heat_error(tableau, n) for n in (steps, 2 * steps)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    ("tableau", "bc_type", "order"),
    [(BackwardEuler(), "DAE", 1), (QinZhang(), "DAE", 2), (RadauIIA(2), "ODE", 3)],
    ids=str,
)
def test_order_in_time_with_boundary_values_that_move(tableau, bc_type, order):
    errors = [stepping.heat_error(tableau, steps, True, bc_type) for steps in (16, 32)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_newton_converges_quadratically_for_coupled_stages():
    mesh = UnitIntervalMesh(8)
    V = FunctionSpace(mesh, "CG", 1)
    (x,) = SpatialCoordinate(mesh)
    u, v = Function(V).interpolate(sin(pi * x)), TestFunction(V)
    kappa = femnn.NeuralCoefficient(stepping.Conductivity(), u)
    F = Dt(u) * v * dx + kappa * inner(grad(u), grad(v)) * dx
    bc = DirichletBC(V, 0, "on_boundary")
    parameters = {"snes_rtol": 1e-14, "snes_atol": 0, "snes_linesearch_type": "basic"}
    stepper = femnn.TimeStepper(
        F, GaussLegendre(2), Constant(0), Constant(0.3), u, bc, solver_parameters=parameters
    )
    (solver,) = stepper.solvers
    solver.snes.setConvergenceHistory()
    stepper.advance()
    norms = solver.snes.getConvergenceHistory()[0]
    norms = norms[norms > 1e-9 * norms[0]]
    orders = np.diff(np.log(norms[1:]))
    assert orders[-1] / orders[-2] > 1.8


def test_irksome_before_firedrake():
    """UFL's tables are then too short for algorithms that are Transformers."""
    script = "import irksome\n" + inspect.getsource(_derivative_of_a_square)
    done = subprocess.run(
        [sys.executable, "-c", script + "\n_derivative_of_a_square()"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "6.0" in done.stdout, done.stderr


def _derivative_of_a_square():
    from firedrake import Constant

    from femnn.fields.derivatives import entry_derivative

    c = Constant(3.0)
    print(float(entry_derivative(c * c, c, ())))


def _rate_problem():
    mesh = UnitIntervalMesh(2)
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1), u, name="kappa")
    return V, u, v, kappa, (Constant(0.0), Constant(0.1), u)


def test_a_missing_irksome_is_named(monkeypatch):
    _, u, v, kappa, rest = _rate_problem()
    for name in ("irksome", "irksome.ufl", "irksome.ufl.deriv"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install irksome"):
        femnn.TimeStepper(kappa * u * v * dx, None, *rest)


def test_what_cannot_be_stepped_is_named():
    V, u, v, kappa, rest = _rate_problem()
    F = Dt(u) * v * dx + kappa * v * dx
    with pytest.raises(NotImplementedError, match=r"kappa stands under Dt.*k.slope\[0\]"):
        femnn.TimeStepper(Dt(kappa) * v * dx, BackwardEuler(), *rest)
    (x,) = SpatialCoordinate(V.mesh())
    g = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1), x, space=V, name="g")
    with pytest.raises(NotImplementedError, match="g stands in a boundary value"):
        femnn.TimeStepper(F, BackwardEuler(), *rest, DirichletBC(V, g, 1))
    with pytest.raises(ValueError, match="bc_type='dae': give 'DAE' or 'ODE'"):
        femnn.TimeStepper(F, BackwardEuler(), *rest, bc_type="dae")
    with pytest.raises(TypeError, match="wanted a form with one test function"):
        femnn.TimeStepper(u * dx, BackwardEuler(), *rest)
    w, test = Function(V * V, name="w"), TestFunction(V * V)
    F = inner(Dt(w), test) * dx - kappa.with_operands(w.subfunctions[0]) * test[0] * dx
    with pytest.raises(ValueError, match=r"part 0 of the unknown w .* write split\(u\)\[0\]"):
        femnn.TimeStepper(F, BackwardEuler(), *rest[:2], w)


def test_the_derivative_of_a_network_in_time_is_its_slope():
    """Dt(u + u^3/6) = (1 + u^2/2) Dt(u): the exact law is the slope of a cubic."""

    class Content(torch.nn.Module):
        def forward(self, u):
            return u + u**3 / 6

    _, u, v, _, rest = _rate_problem()
    u.assign(1.0)
    content = femnn.NeuralCoefficient(Content(), u)
    F = content.slope[0] * Dt(u) * v * dx + v * dx
    stepper = femnn.TimeStepper(F, GaussLegendre(2), *rest, solver_parameters=TIGHT)
    for _ in range(5):
        stepper.advance()
    value = u.dat.data_ro
    assert np.allclose(value + value**3 / 6, 1 + 1 / 6 - 0.5, atol=1e-6)


def _quench(rtol):
    model = stepping.Theta(stepping.Quench())
    steps = femnn.AdaptiveSteps(
        model.step, [model.u], model.dt, model.t, order=1, rtol=rtol, atol=1e-8
    )
    while float(model.t) < 1:
        steps.step(1.0)
    return model, steps


def _steps(model, number):
    for _ in range(number):
        model.step()


def test_a_stiff_law_takes_far_fewer_adaptive_steps():
    reference, _ = _quench(1e-4)
    model, steps = _quench(1e-3)
    error = np.abs(model.u.dat.data_ro - reference.u.dat.data_ro).max()
    assert error < 1e-3
    assert float(model.t) == 1.0
    assert sum(steps.lengths) == pytest.approx(1.0, rel=1e-12)
    assert steps.rejected > 0  # the first length is far too long for Newton's method
    uniform = stepping.Theta(stepping.Quench(), first=1 / (4 * model.calls))
    with pytest.raises(ConvergenceError):
        _steps(uniform, 4 * model.calls)


@pytest.mark.parametrize("model", ADAPTIVE, ids=lambda m: m.__name__)
def test_the_tape_replays_the_accepted_steps(model):
    continue_annotation()
    J, controls = model()
    pause_annotation()
    Jhat = ReducedFunctional(J, [Control(c) for c in controls])
    assert Jhat(controls) == pytest.approx(J, rel=1e-12)


def test_the_scheme_at_other_controls_is_that_of_the_recorded_lengths():
    """The tape's value elsewhere is that of a plain loop with the same lengths."""
    continue_annotation()
    model = stepping.Theta(stepping.Stiff(), first=0.1)
    steps = femnn.AdaptiveSteps(model.step, [model.u], model.dt, model.t, order=1, rtol=1e-2)
    while float(model.t) < 0.5:
        steps.step(0.5)
    J = femnn.assemble(model.u**2 * dx)
    pause_annotation()
    away = Function(model.u.function_space()).assign(0.7 * model.start)
    value = ReducedFunctional(J, Control(model.start))(away)
    model.u.assign(away)
    for length in steps.lengths:
        model.dt.assign(length / 2)
        model.step()
        model.step()
    assert min(steps.lengths) < 0.5 * max(steps.lengths)
    assert value == pytest.approx(femnn.assemble(model.u**2 * dx), rel=1e-11)


class _Scripted:
    """u' = -u by backward Euler in place; fails where it is told to."""

    def __init__(self, fails):
        self.u = Function(FunctionSpace(UnitIntervalMesh(2), "CG", 1), name="u").assign(1.0)
        self.t, self.dt = Constant(0.0), Constant(0.4)
        self.fails, self.tried = fails, []

    def step(self):
        self.tried.append(float(self.dt))
        self.u.assign(self.u / (1 + self.dt))
        if self.fails(self):
            raise ConvergenceError("told to")

    def steps(self, **kwargs):
        return femnn.AdaptiveSteps(self.step, [self.u], self.dt, self.t, order=1, **kwargs)


def _until_it_fails(steps, before):
    """Steps to one; puts into ``before`` what was present before the last."""
    while True:
        tape = len(get_working_tape().get_blocks())
        state = steps.states[0].copy(deepcopy=True, annotate=False)
        before[:] = [state.dat.data_ro, float(steps.time), float(steps.dt), tape]
        steps.step(1.0)


def test_a_failed_solve_is_a_rejection_with_a_smaller_step():
    model = _Scripted(lambda m: float(m.dt) > 0.15)
    steps = model.steps(rtol=10.0)
    length = steps.step(1.0)
    assert 0 < length <= 0.15
    assert steps.rejected > 0
    assert model.tried[0] == 0.4
    assert np.allclose(model.u.dat.data_ro, (1 + length / 2) ** -2)


def test_not_a_number_is_a_rejection():
    model = _Scripted(lambda m: False)

    def step():
        model.step()
        if float(model.dt) > 0.15:
            model.u.assign(np.nan)

    steps = femnn.AdaptiveSteps(step, [model.u], model.dt, model.t, order=1, rtol=10.0)
    assert 0 < steps.step(1.0) <= 0.3
    assert np.isfinite(model.u.dat.data_ro).all()


def test_a_step_that_fails_for_good_loses_nothing():
    model = _Scripted(lambda m: float(m.t) > 0.3)
    steps = model.steps(rtol=1e-2, dt_min=1e-3)
    before = []
    with pytest.raises(ConvergenceError, match=r"smallest step, 0\.001.*told to") as caught:
        _until_it_fails(steps, before)
    assert isinstance(caught.value.__cause__, ConvergenceError)
    assert np.array_equal(model.u.dat.data_ro, before[0])
    assert [float(model.t), float(model.dt)] == before[1:3]
    assert 0.3 < before[1] <= 0.3 + max(steps.lengths)


def test_an_error_that_no_step_meets_is_a_failure():
    model = _Scripted(lambda m: False)
    with pytest.raises(ConvergenceError, match=r"smallest step, 0\.1, has .* times the error"):
        model.steps(rtol=1e-8, atol=0, dt_min=0.1).step(1.0)
    assert np.all(model.u.dat.data_ro == 1)


def test_a_step_that_fails_while_it_is_recorded_leaves_the_tape_as_it_was():
    model = _Scripted(lambda m: annotate_tape() and float(m.t) > 0.5)
    start = Function(model.u.function_space()).assign(1.0)
    continue_annotation()
    model.u.assign(start)
    steps = model.steps(rtol=0.1)
    before = []
    with pytest.raises(ConvergenceError, match="told to"):
        _until_it_fails(steps, before)
    assert before[1] > 0.2  # some steps were recorded
    assert len(get_working_tape().get_blocks()) == before[3]
    assert np.array_equal(model.u.dat.data_ro, before[0])
    J = assemble(model.u * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(start))
    assert Jhat(Function(start.function_space()).assign(2.0)) == pytest.approx(2 * J, rel=1e-13)


def test_wrong_arguments_are_named():
    model = _Scripted(lambda m: False)
    with pytest.raises(ValueError, match=r"got order=1, rtol=-1, .*wanted an order of at least"):
        model.steps(rtol=-1)
    with pytest.raises(ValueError, match=r"step\(0.0\): the time is 0.0, wanted a later one"):
        model.steps().step(0.0)


def driven(tableau, bc_type):
    """Steps with boundary values of the time, of a field and of a Constant."""

    def model(comm):
        mesh = UnitSquareMesh(4, 3, comm=comm)
        V = FunctionSpace(mesh, "CG", 1)
        x, y = SpatialCoordinate(mesh)
        g, c = Function(V, name="g").interpolate(1 + y), Constant(0.8, name="c")
        u, v = Function(V, name="u"), TestFunction(V)
        t, dt = Constant(0.2, name="t"), Constant(0.1, name="dt")
        kappa = femnn.NeuralCoefficient(femnn.MLP(1, 6, 1, output="softplus", seed=1), u)
        F = Dt(u) * v * dx + kappa * inner(grad(u), grad(v)) * dx - v * dx
        bcs = [DirichletBC(V, g**2 * sin(c * t), 1), DirichletBC(V, c * t**2 * x, 2)]
        options = {"bc_type": bc_type, "solver_parameters": TIGHT}
        stepper = femnn.TimeStepper(F, tableau, t, dt, u, bcs, **options)
        J = 0
        for _ in range(3):
            stepper.advance()
            t.assign(float(t) + float(dt))
            J += femnn.assemble((u - x * y) ** 2 * dx)
        return J, [g, c]

    model.controls, model.seed = ("g", "c"), 0
    return model


@pytest.mark.parametrize(
    ("tableau", "bc_type"),
    [(RadauIIA(2), "DAE"), (QinZhang(), "DAE"), (RadauIIA(2), "ODE")],
    ids=str,
)
def test_derivatives_for_what_boundary_values_are_made_of(tableau, bc_type):
    recording = Recording(driven(tableau, bc_type))
    for control in recording.model.controls:
        for found in recording.accuracy(control):
            check(found)
