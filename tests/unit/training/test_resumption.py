"""Trainings that go on in another process, from whatever point the first one has ended at."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from femnn.parallel import same_on_ranks
from femnn.training.layout import Layout
from femnn.training.order import geometric_order
from femnn.training.snapshots import BEFORE, NAME, Snapshots
from tests.unit.models import law, square

EVERY = 4
TIGHT = {"snes_rtol": 1e-13, "snes_atol": 1e-14}
ROOT = Path(__file__).parents[3]


def model(comm=None, with_field=False, data=0.0):
    """A law of the unknown, and perhaps a source; recorded anew, as in a new process."""
    get_working_tape().clear_tape()
    V, u, v, x, y = square(comm or MPI.COMM_SELF)
    seen = Function(V).interpolate(x * (1 - x) * sin(pi * y) * (1 + 0.2 * data))
    source = Function(V, name="source").assign(8.0)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - source * v * dx
    continue_annotation()
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    J = femnn.assemble((u - seen) ** 2 * dx)
    pause_annotation()
    control = Control(kappa.weights)
    controls = [control, Control(source, riesz_map="L2")] if with_field else control
    return ReducedFunctional(J, controls), kappa.net


def train(method, recorded, **arguments):
    Jhat, net = recorded
    chosen = torch.optim.AdamW(net.parameters(), lr=0.02) if method == "AdamW" else method
    defaults = {"progress": False, "checkpoint_every": EVERY, "gtol": 0.0}
    return femnn.fit(Jhat, chosen, **{**defaults, **arguments})


def check_same(result, expected):
    """Bit for bit, but for what two runs of one training differ by.

    BLAS adds up in an order that depends on where arrays lie in memory, so the last bit of a
    loss is now and then another one.
    """
    losses = [[s.loss for s in r.history] for r in (result, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-11)
    np.testing.assert_allclose(result.weights, expected.weights, rtol=1e-8)
    for a, b in zip(result.controls, expected.controls, strict=True):
        if isinstance(a, Function):
            np.testing.assert_allclose(a.dat.data_ro, b.dat.data_ro, rtol=1e-9)
    assert result.evaluations == expected.evaluations
    assert [s.iteration for s in result.history] == list(range(len(expected.history)))
    seconds = [s.seconds for s in result.history]
    assert seconds == sorted(seconds)


METHODS = ["L-BFGS", "Adam", "AdamW", "gauss-newton", "newton-cg", "blmvm"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [6, 8], ids=["between", "written"])
def test_same_iterates_as_without_a_break(tmp_path, method, stop):
    """Ended at an iteration at which the state was written anyway, and between two of these."""
    expected = train(method, model(), maxiter=11, checkpoint=tmp_path / "whole")
    first = train(method, model(), maxiter=stop, checkpoint=tmp_path / "parts")
    assert first.iterations == min(stop, expected.iterations)
    again = train(method, model(), maxiter=11, checkpoint=tmp_path / "parts", resume=True)
    check_same(again, expected)


@pytest.mark.parametrize("method", ["L-BFGS", "blmvm", "Adam"])
def test_several_breaks(tmp_path, method):
    """Each process goes on from what all those before it have done."""
    expected = train(method, model(), maxiter=14, checkpoint=tmp_path / "whole")
    for end in (5, 9, 10, 14):
        again = train(method, model(), maxiter=end, checkpoint=tmp_path / "parts", resume=True)
    check_same(again, expected)


@pytest.mark.parametrize("method", ["L-BFGS", "newton-cg"])
def test_fields_too(tmp_path, method):
    expected = train(
        method, model(with_field=True), maxiter=7, checkpoint=tmp_path / "whole", gtol=0.0
    )
    train(method, model(with_field=True), maxiter=5, checkpoint=tmp_path / "parts")
    again = train(
        method, model(with_field=True), maxiter=7, checkpoint=tmp_path / "parts", resume=True
    )
    check_same(again, expected)


def test_the_checkpoint_changes_little(tmp_path):
    """Solvers that forget their last solutions give the same but for rounding."""
    kept = train("L-BFGS", model(), maxiter=8, checkpoint=tmp_path / "kept")
    plain = train("L-BFGS", model(), maxiter=8)
    np.testing.assert_allclose(
        [s.loss for s in kept.history], [s.loss for s in plain.history], rtol=1e-6
    )
    assert kept.evaluations == plain.evaluations


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_it_in_order(tmp_path, number):
    before = signal.getsignal(number)
    expected = train("L-BFGS", model(), maxiter=9, checkpoint=tmp_path / "whole")

    def callback(step, weights):
        if step.iteration == 5:
            os.kill(os.getpid(), number)

    stopped = train("L-BFGS", model(), maxiter=9, checkpoint=tmp_path / "x", callback=callback)
    assert stopped.reason == "preempted"
    assert "resume=True" in stopped.message
    assert stopped.iterations == 5
    assert signal.getsignal(number) is before
    check_same(
        train("L-BFGS", model(), maxiter=9, checkpoint=tmp_path / "x", resume=True), expected
    )


def test_a_kill_loses_what_came_since_the_last_writing(tmp_path):
    """And nothing before, at whatever place; other processes take over."""
    expected = train("L-BFGS", model(), maxiter=10, checkpoint=tmp_path / "whole")
    script = f"""
        import os, signal
        from tests.unit.training.test_resumption import model, train

        def callback(step, weights):
            if step.iteration == 6:
                os.kill(os.getpid(), signal.SIGKILL)

        train("L-BFGS", model(), maxiter=10, checkpoint={str(tmp_path / "x")!r}, callback=callback)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    seen = []
    again = train(
        "L-BFGS",
        model(),
        maxiter=10,
        checkpoint=tmp_path / "x",
        resume=True,
        callback=lambda step, weights: seen.append(step.iteration),
    )
    assert seen == list(range(EVERY + 1, 11))
    check_same(again, expected)


class Scheduler:
    """A callback with a state, as torch's schedulers have."""

    def __init__(self):
        self.steps = 0

    def __call__(self, step, weights):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def test_the_callback_keeps_its_state(tmp_path):
    train("Adam", model(), maxiter=5, checkpoint=tmp_path, callback=Scheduler())
    torch.manual_seed(1)
    after = Scheduler()
    train("Adam", model(), maxiter=8, checkpoint=tmp_path, callback=after, resume=True)
    assert after.steps == 9  # once before the first iteration


def test_random_numbers_go_on(tmp_path):
    """Of torch and numpy, which a callback may draw."""

    def drawing(drawn):
        def callback(step, weights):
            drawn.append((torch.rand(1).item(), np.random.rand()))  # noqa: NPY002

        return callback

    whole, first, second = [], [], []
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    train("Adam", model(), maxiter=8, checkpoint=tmp_path / "a", callback=drawing(whole))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    train("Adam", model(), maxiter=5, checkpoint=tmp_path / "b", callback=drawing(first))
    torch.rand(3)
    train(
        "Adam",
        model(),
        maxiter=8,
        checkpoint=tmp_path / "b",
        callback=drawing(second),
        resume=True,
    )
    assert first + second == whole


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    """The training goes on, and the older file stays."""
    expected = train("L-BFGS", model(), maxiter=11, checkpoint=tmp_path / "whole")
    train("L-BFGS", model(), maxiter=4, checkpoint=tmp_path / "x")
    write = Snapshots.write
    monkeypatch.setattr(Snapshots, "write", full)
    with pytest.warns(UserWarning, match="No space left"):
        on = train("L-BFGS", model(), maxiter=8, checkpoint=tmp_path / "x", resume=True)
    assert on.iterations == 8
    monkeypatch.setattr(Snapshots, "write", write)
    again = train("L-BFGS", model(), maxiter=11, checkpoint=tmp_path / "x", resume=True)
    check_same(again, expected)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_file(tmp_path):
    """The one before it is taken, with a warning; without one there is an error."""
    expected = train("L-BFGS", model(), maxiter=9, checkpoint=tmp_path / "whole")
    train("L-BFGS", model(), maxiter=8, checkpoint=tmp_path / "x")
    flip(tmp_path / "x" / NAME)
    with pytest.warns(UserWarning, match=r"damaged.*checkpoint before it"):
        again = train("L-BFGS", model(), maxiter=9, checkpoint=tmp_path / "x", resume=True)
    check_same(again, expected)
    for name in (NAME, BEFORE):
        flip(tmp_path / "x" / name)
    with pytest.raises(ValueError, match=r"no checkpoint .* can be read: .* damaged.*start anew"):
        train("L-BFGS", model(), maxiter=9, checkpoint=tmp_path / "x", resume=True)


def test_another_training_is_refused(tmp_path):
    """With what differs: the model, the controls, the method, its options."""
    train("L-BFGS", model(), maxiter=4, checkpoint=tmp_path)
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    again = {"maxiter": 6, "checkpoint": tmp_path, "resume": True}
    with pytest.raises(ValueError, match=r"model is another one.*the loss was .* and is .*data"):
        train("L-BFGS", model(data=1.0), **again)
    with pytest.raises(ValueError, match=r"controls \[\['Weights'.*here .*'Function', 'source'"):
        train("L-BFGS", model(with_field=True), **again)
    with pytest.raises(ValueError, match=r"method 'L-BFGS', here 'Adam'"):
        train("Adam", model(), **again)
    with pytest.raises(ValueError, match=r"options .*here .*maxcor.*begin anew"):
        train("L-BFGS", model(), options={"maxcor": 3}, **again)
    assert files == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_wrong_use(tmp_path):
    train("L-BFGS", model(), maxiter=1, checkpoint=tmp_path / "x")
    with pytest.raises(FileExistsError, match=r"resume=True.*another folder"):
        train("L-BFGS", model(), maxiter=2, checkpoint=tmp_path / "x")
    with pytest.raises(ValueError, match=r"from what\? Give checkpoint=FOLDER"):
        train("L-BFGS", model(), maxiter=2, resume=True)
    with pytest.raises(ValueError, match=r"bnls .*leave checkpoint out, or take 'newton-cg'"):
        train("bnls", model(), checkpoint=tmp_path / "y")
    with pytest.raises(ValueError, match=r"checkpoint_every=0"):
        train("L-BFGS", model(), checkpoint=tmp_path / "y", checkpoint_every=0)
    with pytest.raises(TypeError, match=r"checkpoint is a int, wanted the path of a folder"):
        train("L-BFGS", model(), checkpoint=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"is a file, wanted a folder"):
        train("L-BFGS", model(), checkpoint=tmp_path / "file")
    assert not (tmp_path / "y").exists()


CASES = [("L-BFGS", False), ("gauss-newton", False), ("L-BFGS", True), ("newton-cg", True)]


@pytest.mark.parallel([2])
@pytest.mark.parametrize(("method", "with_field"), CASES)
def test_another_number_of_ranks(tmp_path_factory, method, with_field):
    """Begun on one rank, it goes on on two, to the same values but for rounding."""
    comm = MPI.COMM_WORLD
    folder = comm.bcast(tmp_path_factory.mktemp("x") if comm.rank == 0 else None)
    losses = None
    if comm.rank == 0:
        expected = train(method, model(None, with_field), maxiter=6, checkpoint=folder / "whole")
        losses = [s.loss for s in expected.history]
        train(method, model(None, with_field), maxiter=5, checkpoint=folder / "x")
    losses = comm.bcast(losses)
    again = train(method, model(comm, with_field), maxiter=6, checkpoint=folder / "x", resume=True)
    np.testing.assert_allclose([s.loss for s in again.history], losses, rtol=1e-9)
    with pytest.raises(FileExistsError, match="resume=True"):
        train(method, model(comm, with_field), maxiter=6, checkpoint=folder / "x")


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda mesh: FunctionSpace(mesh, "CG", 2),
        lambda mesh: VectorFunctionSpace(mesh, "DG", 1),
        lambda mesh: FunctionSpace(mesh, "CG", 1) * FunctionSpace(mesh, "Real", 0),
    ],
    ids=["P2", "vectors", "mixed"],
)
def test_values_of_fields_have_an_order_of_their_own(make):
    """It is that of the mesh, on any number of ranks."""

    def sorted_values(comm):
        mesh = UnitSquareMesh(4, 3, comm=comm)
        field = Function(make(mesh))
        x, y = SpatialCoordinate(mesh)
        for k, part in enumerate(field.subfunctions):
            if part.function_space().ufl_element().family() == "Real":
                part.assign(7.0)
            else:
                part.interpolate(as_vector([x, y * y]) if part.ufl_shape else x + 10 * y + k)
        layout = Layout(field)
        return layout.gather(layout.own(field))[geometric_order(field)]

    np.testing.assert_allclose(
        sorted_values(MPI.COMM_WORLD), sorted_values(MPI.COMM_SELF), rtol=1e-13
    )


@pytest.mark.parallel([1, 2, 3])
def test_values_at_one_place_are_refused():
    mesh = UnitSquareMesh(4, 3)
    field = Function(FunctionSpace(mesh, "CG", 1), name="m")
    mesh.coordinates.assign(Constant([0.5, 0.5]))
    with pytest.raises(ValueError, match="two values of m stand at one place"):
        geometric_order(field)


@pytest.mark.parallel([1, 2, 3])
def test_an_order_has_each_place_once():
    field = Function(FunctionSpace(UnitSquareMesh(9, 9), "CG", 1))
    order = geometric_order(field)
    np.testing.assert_array_equal(np.sort(order), np.arange(10**2))
    assert same_on_ranks(field.comm, order.tobytes())


def test_fields_without_values_at_points_are_refused():
    field = Function(FunctionSpace(UnitSquareMesh(2, 2), "RT", 1), name="flux")
    with pytest.raises(ValueError, match=r"a field of .*Lagrange space, or leave"):
        geometric_order(field)
