"""Schedules give what the plain tape gives, and hold no more than they may.

The solvers do not start from their last solution here: warm starts agree with the plain tape
to the solver's tolerance only, the same starts to rounding.
"""

import contextlib
import gc
import io
import weakref

import numpy as np
import pytest
import torch
from checkpoint_schedules import (
    DiskRevolve,
    HRevolve,
    MixedCheckpointSchedule,
    MultistageCheckpointSchedule,
    NoneCheckpointSchedule,
    PeriodicDiskRevolve,
    Revolve,
    SingleDiskStorageSchedule,
    SingleMemoryStorageSchedule,
    StorageType,
    TwoLevelCheckpointSchedule,
)
from firedrake import *
from firedrake.adjoint import *
from pyadjoint import AdjFloat
from pyop2 import op2

import femnn
from femnn.variational.forward import ForwardSolve

N = 7
SCHEDULES = {
    "memory": SingleMemoryStorageSchedule,
    "disk": SingleDiskStorageSchedule,
    "disk, moved": lambda: SingleDiskStorageSchedule(move_data=True),
    "revolve": lambda: Revolve(N, 2),
    "multistage, memory": lambda: MultistageCheckpointSchedule(N, 2, 0),
    "multistage, both": lambda: MultistageCheckpointSchedule(N, 1, 2),
    "mixed, memory": lambda: MixedCheckpointSchedule(N, 2, storage=StorageType.RAM),
    "mixed, disk": lambda: MixedCheckpointSchedule(N, 2, storage=StorageType.DISK),
    "hrevolve": lambda: HRevolve(N, 1, 2),
    "disk revolve": lambda: DiskRevolve(N, 1),
    "periodic disk revolve": lambda: PeriodicDiskRevolve(N, 1),
    "two levels": lambda: TwoLevelCheckpointSchedule(3, 1),
    "two levels, memory": lambda: TwoLevelCheckpointSchedule(
        3, 1, binomial_storage=StorageType.RAM
    ),
}
pytestmark = pytest.mark.filterwarnings("ignore:Numba not available:RuntimeWarning")


class Model:
    """Nonlinear heat with three laws, moving boundary values and a source from outside."""

    def __init__(self, mesh, schedule=None, steps=N, directory=None):
        tape = get_working_tape()
        tape.clear_tape()
        if schedule is not None:
            tape = femnn.enable_checkpointing(schedule, directory)
        continue_annotation()
        V = FunctionSpace(mesh, "CG", 1)
        u, un, v = Function(V, name="u"), Function(V, name="un"), TestFunction(V)
        x, y = SpatialCoordinate(mesh)
        start = Function(V, name="start").interpolate(sin(pi * x) * sin(pi * y))
        g, h = Function(V, name="g").assign(0.1), Function(V, name="h")
        t = Constant(0.0, name="t")
        kappa = femnn.NeuralCoefficient(femnn.MLP(1, 8, 1, output="softplus", seed=1), u)
        source = femnn.NeuralCoefficient(femnn.MLP(4, 6, 1, seed=2), un, x, y, t)
        fixed = femnn.NeuralCoefficient(femnn.MLP(2, 6, 1, seed=3), x, y)
        F = (u - un) / 0.1 * v * dx + kappa * inner(grad(u), grad(v)) * dx
        F -= (source + fixed + h) * v * dx
        bcs = [DirichletBC(V, t * x, 1), DirichletBC(V, g, 2)]
        problem = femnn.NeuralVariationalProblem(F, u, bcs)
        tight = {"snes_rtol": 1e-12, "snes_atol": 1e-13}
        solver = femnn.NeuralVariationalSolver(problem, solver_parameters=tight, warm_start=False)
        u.assign(start)
        un.assign(start)
        J = 0
        for step in tape.timestepper(iter(range(steps))):
            t.assign(0.05 * (step + 1))
            g.assign(0.5 * g + 0.1)
            if step == 3:
                self.midway = Control(g)
            with stop_annotating(modifies=(h,)):
                h.interpolate(sin(step + x))
            solver.solve()
            un.assign(u)
            J += femnn.assemble((u - x * y) ** 2 * dx)
        pause_annotation()
        self.tape, self.value, self.last = tape, J, un
        self.controls = [kappa.weights, source.weights, fixed.weights, start]
        self.Jhat = ReducedFunctional(J, [Control(c) for c in self.controls])

    def point(self, size):
        """Values of the controls, some way from the recorded ones."""
        return [_moved(c, c, size) for c in self.controls]

    def direction(self):
        return [_moved(c, c._ad_mul(0.0), 1.0) for c in self.controls]

    def derivatives(self, size):
        """Value, gradient, tangent-linear model and Hessian action at a point."""
        value = float(self.Jhat(self.point(size)))
        gradient = _flat(self.Jhat.derivative())
        along = float(self.Jhat.tlm(self.direction()))
        return [value], gradient, [along], _flat(self.Jhat.hessian(self.direction()))


def _moved(like, origin, size):
    """Independent of the number of ranks."""
    if isinstance(like, femnn.Weights):
        step = np.random.default_rng(len(like)).standard_normal(len(like))
        return like.like(origin.vector + size * step)
    with stop_annotating():
        x = SpatialCoordinate(like.function_space().mesh())
        wave = Function(like.function_space()).interpolate(cos(3 * x[0] + 5 * x[1]))
        return Function(like.function_space()).assign(origin + size * wave)


def _flat(parts):
    """The rank's part of a gradient."""
    vectors = (p.vector if isinstance(p, femnn.Weights) else p.dat.data_ro for p in parts)
    return np.concatenate(list(vectors))


def _assert_same(ours, expected, tolerance=1e-12):
    for a, b in zip(ours, expected, strict=True):
        assert np.linalg.norm(np.subtract(a, b)) <= tolerance * np.linalg.norm(b)


@pytest.fixture(scope="module")
def mesh():
    return UnitSquareMesh(5, 4)


@pytest.fixture(scope="module")
def plain(mesh):
    """What the plain tape gives where it was recorded, and at two points."""
    model = Model(mesh)
    recorded = [float(model.value)], _flat(model.Jhat.derivative())
    return recorded, [model.derivatives(size) for size in (0.2, 0.0)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_gives_the_plain_tapes_derivatives(mesh, plain, name, tmp_path):
    expected, elsewhere = plain
    model = Model(mesh, SCHEDULES[name](), directory=str(tmp_path))
    _assert_same(([float(model.value)], _flat(model.Jhat.derivative())), expected)
    for size, values in zip((0.2, 0.0), elsewhere, strict=True):
        _assert_same(model.derivatives(size), values)
    gradient = elsewhere[-1][1]
    _assert_same([_flat(model.Jhat.derivative())], [gradient])  # again, with nothing in between


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("name", ["revolve", "disk"])
def test_schedule_on_ranks(mesh, plain, name):
    model = Model(mesh, SCHEDULES[name]())
    _assert_same(model.derivatives(0.2), plain[1][0])


def test_gradient_and_hessian_pass_the_taylor_test(mesh):
    model = Model(mesh, Revolve(N, 2))
    model.Jhat(model.point(0.2))
    slope = sum(
        d._ad_dot(g) for d, g in zip(model.direction(), model.Jhat.derivative(), strict=True)
    )
    along = model.Jhat.hessian(model.direction())
    curvature = sum(d._ad_dot(h) for d, h in zip(model.direction(), along, strict=True))
    small = [d._ad_mul(0.1) for d in model.direction()]
    with contextlib.redirect_stdout(io.StringIO()):
        order = taylor_test(
            model.Jhat, model.point(0.2), small, dJdm=0.1 * slope, Hm=0.01 * curvature
        )
    assert order > 2.9


def test_hessian_follows_the_control(mesh):
    """Also where the gradient has not been taken at the new point."""
    model = Model(mesh, Revolve(N, 2))
    *_, expected = model.derivatives(0.2)
    model.derivatives(-0.1)
    model.Jhat(model.point(0.2))
    _assert_same([_flat(model.Jhat.hessian(model.direction()))], [expected])


@pytest.mark.parametrize("name", ["memory", "revolve", "mixed, disk"])
def test_control_that_a_step_has_made(mesh, name, plain_midway):
    """Boundary values as they were in the midst of the run."""
    _assert_same(_midway(Model(mesh, SCHEDULES[name]())), plain_midway)


@pytest.fixture(scope="module")
def plain_midway(mesh):
    return _midway(Model(mesh))


def _midway(model):
    """Values and derivatives for boundary values that a step has made, at several places."""
    Jhat = ReducedFunctional(model.value, model.midway)
    g = model.midway.control
    found = [[], _flat([Jhat.derivative()])]
    for value in (0.5, 0.1):
        new = _moved(g, Function(g.function_space()).assign(value), 0.2)
        found[0] += [float(Jhat(new))]
        found += [_flat([Jhat.derivative()])]
        found += [[float(Jhat.tlm(_moved(g, g._ad_mul(0.0), 1.0)))]]
        found += [_flat([Jhat.hessian(_moved(g, g._ad_mul(0.0), 1.0))])]
    return found


def test_functional_that_is_a_field(mesh):
    results = []
    for schedule in (None, Revolve(N, 2)):
        model = Model(mesh, schedule)
        Jhat = ReducedFunctional(model.last, Control(model.controls[0]))
        weight = Cofunction(model.last.function_space().dual())
        weight.dat.data_wo[...] = 1.0
        field = Jhat(model.point(0.2)[0]).dat.data_ro.copy()
        results.append((field, Jhat.derivative(adj_input=weight).vector))
    _assert_same(results[1], results[0])


def test_layer_goes_back_to_an_earlier_evaluation(mesh):
    gradients = []
    for schedule in (None, Revolve(N, 2)):
        model = Model(mesh, schedule)
        Jhat = ReducedFunctional(model.value, Control(model.controls[3]))
        layer = femnn.PDELayer(Jhat)
        first = torch.tensor(model.point(0.2)[3].dat.data_ro, requires_grad=True)
        second = torch.tensor(model.point(-0.1)[3].dat.data_ro, requires_grad=True)
        (layer(first) * layer(second)).backward()
        gradients.append((first.grad.numpy(), second.grad.numpy()))
    _assert_same(gradients[1], gradients[0])


def test_solve_that_fails_leaves_the_tape_usable(mesh, plain):
    model = Model(mesh, MultistageCheckpointSchedule(N, 1, 2))
    broken = [c.like(np.full(len(c), np.nan)) for c in model.controls[:3]]
    with pytest.raises(ConvergenceError):
        model.Jhat([*broken, model.point(0.2)[3]])
    _assert_same(model.derivatives(0.2), plain[1][0])


class _Held:
    """Counts the fields that are held where a solve is done, as long as it is entered."""

    def __init__(self, monkeypatch):
        self.alive, self.most, self._patch = weakref.WeakSet(), 0, monkeypatch

    def __enter__(self):
        # What is there already is not looked at again and again.
        gc.collect()
        gc.freeze()
        self._patch.setattr(op2.Dat, "__init__", self._noted(op2.Dat.__init__))
        for kind, name in ((femnn.NeuralVariationalSolver, "solve"), (ForwardSolve, "again")):
            self._patch.setattr(kind, name, self._counted(getattr(kind, name)))
        return self

    def __exit__(self, *args):
        self._patch.undo()
        gc.unfreeze()

    def _noted(self, init):
        def call(dat, *args, **kwargs):
            init(dat, *args, **kwargs)
            self.alive.add(_Field(dat))

        return call

    def _counted(self, method):
        def call(*args, **kwargs):
            result = method(*args, **kwargs)
            gc.collect()
            self.most = max(self.most, len(self.alive))
            return result

        return call


class _Field:
    """Lives as long as an array of degrees of freedom."""

    def __init__(self, dat):
        dat._field = self


def _most_fields(mesh, monkeypatch, schedule, steps):
    """The largest numbers of fields, less those from outside: recording, and derivatives."""
    with _Held(monkeypatch) as held:
        model = Model(mesh, schedule, steps)
    recording = held.most
    with _Held(monkeypatch) as held:
        model.derivatives(0.2)
    return recording - steps, held.most


@pytest.mark.parametrize(
    "schedule",
    [
        lambda n: Revolve(n, 2),
        lambda n: MultistageCheckpointSchedule(n, 1, 2),
        lambda n: SingleDiskStorageSchedule(),
        lambda n: MixedCheckpointSchedule(n, 2, storage=StorageType.DISK),
    ],
    ids=["revolve", "multistage", "disk", "mixed"],
)
def test_fields_held_do_not_grow_with_steps(mesh, monkeypatch, schedule):
    few = _most_fields(mesh, monkeypatch, schedule(8), 8)
    many = _most_fields(mesh, monkeypatch, schedule(20), 20)
    assert many[0] == few[0]
    assert many[1] <= few[1] + 1  # the longer run meets every state of the schedule


def test_plain_tape_holds_fields_for_each_step(mesh, monkeypatch):
    few = _most_fields(mesh, monkeypatch, None, 6)
    many = _most_fields(mesh, monkeypatch, None, 12)
    assert min(m - f for m, f in zip(many, few, strict=True)) >= 6


def test_files_are_removed(mesh, tmp_path):
    model = Model(mesh, SingleDiskStorageSchedule(), directory=str(tmp_path))
    model.Jhat(model.point(0.2))
    assert len(list(tmp_path.glob("femnn-*/*.npz"))) >= N
    model.Jhat.derivative()
    gc.collect()
    assert len(list(tmp_path.glob("femnn-*/*.npz"))) < N  # of fields that solvers still hold
    model.tape.clear_tape()
    del model
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_boundary_values_that_are_written_alike_are_held_once(mesh):
    V = FunctionSpace(mesh, "CG", 1)
    u, v, t = Function(V), TestFunction(V), Constant(1.0)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus", seed=1), u)
    bc = DirichletBC(V, t * u, 1)
    problem = femnn.NeuralVariationalProblem(kappa * inner(grad(u), grad(v)) * dx - v * dx, u, bc)
    solver = femnn.NeuralVariationalSolver(problem)
    (boundary,) = solver.state.boundary
    first = boundary.present()
    for value in (2.0, t * u):
        bc.set_value(value)
        present = boundary.present()
    assert boundary.given is first
    assert present is first


def test_schedule_for_another_number_of_steps(mesh):
    model = Model(mesh, Revolve(N + 1, 2))
    with pytest.raises(RuntimeError, match=f"is for {N + 1} steps, the tape has {N}"):
        model.Jhat.derivative()


def test_schedule_that_is_used_up(mesh):
    schedule = Revolve(N, 2)
    Model(mesh, schedule).Jhat.derivative()
    with pytest.raises(RuntimeError, match="has been used before: make a new one"):
        Model(mesh, schedule).Jhat.derivative()


def test_schedule_without_adjoint(mesh, plain):
    model = Model(mesh, NoneCheckpointSchedule())
    assert float(model.Jhat(model.point(0.2))) == pytest.approx(plain[1][0][0][0], rel=1e-12)
    with pytest.raises(RuntimeError, match="NoneCheckpointSchedule has no adjoint"):
        model.Jhat.derivative()


def test_hessian_before_any_gradient(mesh):
    model = Model(mesh, Revolve(N, 2))
    with pytest.raises(RuntimeError, match=r"hessian\(\) was called before derivative\(\)"):
        model.Jhat.hessian(model.direction())


def test_lost_values_are_an_error(mesh):
    model = Model(mesh, Revolve(N, 2))
    ReducedFunctional(model.value, Control(model.controls[0])).optimize_tape()
    with pytest.raises(RuntimeError, match=r"which no block on the tape computes"):
        model.Jhat(model.point(0.2))


def test_what_is_no_schedule():
    with pytest.raises(TypeError, match="got a int: wanted a schedule"):
        femnn.enable_checkpointing(3)


def test_tape_with_blocks(mesh):
    Model(mesh)
    with pytest.raises(RuntimeError, match="blocks already"):
        femnn.enable_checkpointing(Revolve(N, 2))


def test_a_tape_from_before_names_the_one_to_use(mesh):
    with set_working_tape() as before:
        tape = femnn.enable_checkpointing(Revolve(N, 2))
        assert get_working_tape() is tape
        assert tape is not before
        with pytest.raises(RuntimeError, match="use the tape that it returns"):
            list(before.timestepper(iter(range(N))))
        J = AdjFloat(1.0)
        with pytest.raises(RuntimeError, match="use the tape that it returns"):
            ReducedFunctional(J, Control(J), tape=before)(AdjFloat(2.0))
        tape.clear_tape()
        assert femnn.enable_checkpointing(Revolve(N, 2)) is tape
    assert get_working_tape() is not tape


def test_pyadjoints_own_schedules_are_refused(mesh):
    tape = get_working_tape()
    tape.clear_tape()
    tape.enable_checkpointing(Revolve(N, 2))
    V = FunctionSpace(mesh, "CG", 1)
    x, _ = SpatialCoordinate(mesh)
    law = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1), x, space=V)
    continue_annotation()
    with pytest.raises(RuntimeError, match=r"Call femnn\.enable_checkpointing"):
        femnn.assemble(law * dx)
    pause_annotation()
    tape.clear_tape()
