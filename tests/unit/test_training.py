"""fit: what it reaches, what it reports, and what it does when something goes wrong."""

import gc
import os
import signal
import tracemalloc

import numpy as np
import pytest
import scipy.optimize
import torch
from checkpoint_schedules import Revolve
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from femnn.training.interruption import Interruption
from femnn.training.loss import Loss
from femnn.training.result import FitResult

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


class Fragile(torch.nn.Module):
    """A law that is not a number where a weight has left its range by more than ``reach``."""

    def __init__(self, reach):
        super().__init__()
        self.net, self.reach = femnn.MLP(1, 6, 1, output="softplus", seed=1), reach
        self.start = torch.cat([p.detach().reshape(-1) for p in self.net.parameters()])

    def forward(self, x):
        now = torch.cat([p.detach().reshape(-1) for p in self.net.parameters()])
        if (now - self.start).norm() > self.reach:
            return self.net(x) * float("nan")
        return self.net(x)


class Failing(torch.nn.Module):
    """Raises from some evaluation on."""

    def __init__(self):
        super().__init__()
        self.net, self.left = femnn.MLP(1, 6, 1, output="softplus", seed=1), None

    def forward(self, x):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("the device is gone")
        return self.net(x)


def poisson(net=None, comm=MPI.COMM_SELF, n=8, noise=0.0, scale=1.0, explicit=None):
    """Recover 1 + u^2 from u: the reduced functional and the coefficient."""
    net = femnn.MLP(1, 6, 1, output="softplus", seed=1) if net is None else net
    mesh = UnitSquareMesh(n, n, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    v, bc = TestFunction(V), DirichletBC(V, 0, "on_boundary")
    x, y = SpatialCoordinate(mesh)
    seen, u = Function(V), Function(V)
    solve((1 + seen**2) * inner(grad(seen), grad(v)) * dx - 10 * v * dx == 0, seen, bc)
    seen.assign(seen + noise)
    kappa = femnn.NeuralCoefficient(net, u)
    source = 10 if explicit is None else femnn.NeuralCoefficient(explicit, x, y)
    F = kappa * inner(grad(u), grad(v)) * dx - source * v * dx
    get_working_tape().clear_tape()
    continue_annotation()
    femnn.solve(F == 0, u, bc, solver_parameters=TIGHT)
    J = assemble(scale * (u - seen) ** 2 * dx)
    pause_annotation()
    coefficients = [kappa] if explicit is None else [kappa, source]
    controls = [Control(c.weights) for c in coefficients]
    Jhat = ReducedFunctional(J, controls if explicit is not None else controls[0])
    return Jhat, coefficients if explicit is not None else kappa


def rate(method, value):
    """Adam's learning rate; L-BFGS has none."""
    return {"learning_rate": value} if method == "Adam" else {}


def check_consistency(result, Jhat, kappa):
    """What holds for every result, however the training ended."""
    assert isinstance(result, FitResult)
    assert np.array_equal(result.weights, kappa.weights.vector), "the net has other weights"
    assert result.history[0].loss == result.initial_loss
    assert result.history[0].iteration == 0
    assert result.history[0].evaluations == 1
    assert [s.iteration for s in result.history] == list(range(len(result.history)))
    assert result.iterations == result.history[-1].iteration
    assert result.evaluations >= result.history[-1].evaluations
    seconds = [s.seconds for s in result.history]
    assert seconds == sorted(seconds)
    assert result.seconds >= seconds[-1] > 0
    assert result.loss <= min(s.loss for s in result.history)
    assert Jhat(kappa.weights.like(result.weights)) == pytest.approx(result.loss, rel=1e-8)
    norm = np.linalg.norm(Jhat.derivative().vector)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(
    ("method", "maxiter", "options"),
    [("L-BFGS", 15, {}), ("Adam", 40, {"learning_rate": 0.05})],
    ids=["L-BFGS", "Adam"],
)
def test_the_loss_falls(method, maxiter, options):
    Jhat, kappa = poisson()
    result = femnn.fit(Jhat, method, maxiter=maxiter, progress=False, **options)
    check_consistency(result, Jhat, kappa)
    assert result.loss < 0.05 * result.initial_loss
    assert result.reason == "iterations"
    assert result.message == f"Stopped after {maxiter} iterations."
    assert not result.success
    assert result.iterations == maxiter
    assert len(result.history) == maxiter + 1
    assert result.rejected == 0
    if method == "Adam":
        assert result.evaluations == maxiter + 1
    losses = [s.loss for s in result.history]
    assert len(set(losses)) == len(losses), "an iterate is reported twice"
    text = str(result)
    assert f"{result.initial_loss:.4e} -> {result.loss:.4e}" in text
    assert f"{result.evaluations} evaluations (0 rejected)" in text


def test_lbfgs_recovers_the_law():
    Jhat, kappa = poisson(scale=1e4)
    assert not np.allclose(kappa.evaluator.value(np.ones((1, 1))), 2, rtol=0.3)
    femnn.fit(Jhat, maxiter=300, progress=False)
    peak = float(kappa.operands[0].dat.data_ro.max())
    u = np.linspace(0.1, 0.9, 20)[:, None] * peak
    law = kappa.evaluator.value(u)
    assert np.allclose(law, 1 + u**2, rtol=0.05)


def test_adam_is_torchs():
    """The iterates are those of torch's optimiser with the same gradients."""
    Jhat, kappa = poisson()
    start, seen = kappa.weights.vector, []
    femnn.fit(
        Jhat,
        "Adam",
        maxiter=4,
        gtol=0.0,
        learning_rate=0.02,
        options={"betas": (0.8, 0.9)},
        progress=False,
        callback=lambda step, w: seen.append(w),
    )
    p = torch.nn.Parameter(torch.tensor(start))
    adam = torch.optim.Adam([p], lr=0.02, betas=(0.8, 0.9))
    expected = [start]
    for _ in range(4):
        Jhat(kappa.weights.like(p.detach().numpy()))
        p.grad = torch.tensor(Jhat.derivative().vector)
        adam.step()
        expected.append(p.detach().numpy().copy())
    assert len(seen) == 5
    assert np.allclose(seen, expected, rtol=0, atol=1e-7)


INSTANCES = {
    "SGD": lambda p: torch.optim.SGD(p, lr=2.0, momentum=0.5),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05),
    "LBFGS": lambda p: torch.optim.LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"),
}


@pytest.mark.parametrize("name", INSTANCES)
def test_torch_optimisers_as_instances(name):
    Jhat, kappa = poisson()
    result = femnn.fit(Jhat, INSTANCES[name](kappa.net.parameters()), maxiter=12, progress=False)
    check_consistency(result, Jhat, kappa)
    assert result.loss < 0.3 * result.initial_loss
    assert result.iterations == 12
    assert all(p.grad is None for p in kappa.net.parameters())
    if name != "LBFGS":
        assert result.evaluations == 13


def test_a_torch_optimiser_with_groups_and_a_scheduler_is_torchs():
    """The iterates are those of torch's own loop with the same gradients."""
    seen = []
    for by_fit in (True, False):
        Jhat, kappa = poisson()
        first, *rest = kappa.net.parameters()
        optimiser = torch.optim.AdamW([{"params": [first], "lr": 0.05}, {"params": rest}], lr=0.01)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5)
        if by_fit:
            femnn.fit(
                Jhat,
                optimiser,
                maxiter=4,
                callback=lambda step, w, s=scheduler: step.iteration and s.step(),
                progress=False,
            )
        else:
            for _ in range(4):
                Jhat(kappa.weights)
                gradient = Jhat.derivative()
                tensors = kappa.weights.split(gradient.vector)
                for p, g in zip(kappa.net.parameters(), tensors, strict=True):
                    p.grad = g
                optimiser.step()
                scheduler.step()
        assert [g["lr"] for g in optimiser.param_groups] == [0.05 / 16, 0.01 / 16]
        seen.append(kappa.weights.vector)
    np.testing.assert_allclose(*seen, rtol=0, atol=1e-7)


def test_a_torch_optimiser_whose_step_fails_goes_back_and_halves_its_rate():
    Jhat, kappa = poisson(Fragile(0.8))
    optimiser = torch.optim.Adam(kappa.net.parameters(), lr=0.3)
    result = femnn.fit(Jhat, optimiser, maxiter=15, progress=False)
    check_consistency(result, Jhat, kappa)
    assert result.rejected > 0
    halvings = np.log2(0.3 / optimiser.param_groups[0]["lr"])
    assert halvings in (result.rejected, result.rejected - 1), "the last try may be a failed one"
    assert result.loss < result.initial_loss


def test_torch_optimisers_of_other_parameters_or_with_settings_beside_are_refused():
    Jhat, kappa = poisson()
    other = torch.optim.SGD([*kappa.net.parameters(), torch.nn.Parameter(torch.ones(2))], lr=1.0)
    with pytest.raises(
        ValueError, match=r"SGD has 1 parameters that are not the controls': make it"
    ):
        femnn.fit(Jhat, other, progress=False)
    own = torch.optim.SGD(kappa.net.parameters(), lr=1.0)
    with pytest.raises(ValueError, match=r"learning_rate=0\.1 is nothing that SGD uses"):
        femnn.fit(Jhat, own, learning_rate=0.1, progress=False)
    with pytest.raises(ValueError, match=r"'momentum', which SGD does not take"):
        femnn.fit(Jhat, own, options={"momentum": 0.9}, progress=False)


@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_target(method):
    Jhat, kappa = poisson()
    target = 0.5 * float(Jhat(kappa.weights))
    options = {"method": method, "progress": False, **rate(method, 0.05)}
    result = femnn.fit(Jhat, target=target, maxiter=100, **options)
    check_consistency(result, Jhat, kappa)
    assert result.reason == "target"
    assert result.success
    assert f"{target:.3e}" in result.message
    assert result.history[-1].loss <= target < result.history[-2].loss
    again = femnn.fit(Jhat, target=target, **options)
    assert again.reason == "target"
    assert again.iterations == 0
    assert again.evaluations == 1


@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_callback(method):
    Jhat, kappa = poisson()
    calls = []

    def callback(step, weights):
        calls.append((step, weights.copy()))
        weights[:] = np.nan  # must be a copy
        return step.iteration == 3

    result = femnn.fit(Jhat, method, callback=callback, progress=False)
    check_consistency(result, Jhat, kappa)
    assert result.reason == "callback"
    assert not result.success
    assert [step for step, _ in calls] == result.history
    assert result.iterations == 3
    for step, weights in calls:
        assert Jhat(kappa.weights.like(weights)) == pytest.approx(step.loss, rel=1e-8)


@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_convergence_by_the_gradient(method):
    Jhat, kappa = poisson()
    Jhat(kappa.weights)
    gtol = 0.3 * abs(Jhat.derivative().vector).max()
    result = femnn.fit(Jhat, method, gtol=gtol, maxiter=200, progress=False, **rate(method, 0.03))
    check_consistency(result, Jhat, kappa)
    assert result.reason == "converged"
    assert result.success
    assert result.iterations > 0
    Jhat(kappa.weights.like(result.weights))
    assert abs(Jhat.derivative().vector).max() <= gtol


@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_in_a_callback_the_networks_hold_the_weights_of_the_step(method, tmp_path):
    Jhat, (kappa, source) = poisson(explicit=femnn.MLP(2, 4, 1, output="exp", seed=2))
    steps = []

    def callback(step, weights):
        held = np.concatenate([kappa.weights.vector, source.weights.vector])
        assert np.array_equal(held, weights)
        femnn.save(kappa.net, tmp_path / f"{step.iteration}.safetensors", comm=MPI.COMM_SELF)
        steps.append(weights)
        kappa.weights.assign(np.zeros(19))  # what a callback does to them is not kept

    femnn.fit(Jhat, method, maxiter=3, callback=callback, progress=False)
    assert len(steps) == 4
    for iteration, weights in enumerate(steps):
        saved = femnn.load(tmp_path / f"{iteration}.safetensors")
        vector = torch.nn.utils.parameters_to_vector(saved.parameters()).detach().numpy()
        assert np.array_equal(vector, weights[: len(vector)])


def gradient_at(Jhat, weights):
    Jhat(weights)
    return Jhat.derivative().vector


class Counting:
    """A reduced functional whose evaluations are counted."""

    def __init__(self, Jhat):
        self.Jhat, self.calls, self.controls = Jhat, 0, Jhat.controls

    tape = property(lambda self: self.Jhat.tape)
    functional = property(lambda self: self.Jhat.functional)

    def __call__(self, values):
        self.calls += 1
        return self.Jhat(values)

    def derivative(self):
        return self.Jhat.derivative()


@pytest.mark.parametrize("case", ["best is last", "best is not last", "evaluated elsewhere"])
def test_afterwards_the_derivative_is_that_of_the_best_weights(case):
    Jhat, kappa = poisson()
    counting, start = Counting(Jhat), kappa.weights.like(kappa.weights.vector)
    rate = 1.0 if case == "best is not last" else 1e-3

    def callback(step, weights):
        if case == "evaluated elsewhere":
            Jhat(start)

    result = femnn.fit(
        counting, "Adam", maxiter=4, learning_rate=rate, callback=callback, progress=False
    )
    best_is_last = result.loss == result.history[-1].loss
    assert best_is_last == (case != "best is not last")
    assert counting.calls == result.evaluations + (case != "best is last")
    found = Jhat.derivative().vector
    assert np.linalg.norm(found) == pytest.approx(result.gradient_norm, rel=1e-6)
    np.testing.assert_allclose(found, gradient_at(Jhat, kappa.weights), rtol=1e-6, atol=1e-12)


def test_afterwards_the_derivative_is_right_where_the_last_evaluation_has_failed():
    Jhat, kappa = poisson(Fragile(0.3))
    result = femnn.fit(Jhat, "Adam", maxiter=1, learning_rate=0.5, progress=False)
    assert (result.rejected, result.iterations) == (1, 0)
    found = Jhat.derivative().vector
    np.testing.assert_allclose(found, gradient_at(Jhat, kappa.weights), rtol=1e-6, atol=1e-12)


def test_afterwards_the_derivative_is_right_under_a_schedule():
    V = FunctionSpace(UnitIntervalMesh(6), "CG", 1)
    u, un, v, f = Function(V), Function(V), TestFunction(V), Function(V).assign(3.0)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus"), u)
    F = (u - un) / 0.1 * v * dx + kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    continue_annotation()
    tape = femnn.enable_checkpointing(Revolve(6, 2))
    J = 0
    for _ in tape.timestepper(iter(range(6))):
        solver.solve()
        un.assign(u)
        J = J + femnn.assemble((u - 0.3) ** 2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    femnn.fit(Jhat, "Adam", maxiter=3, learning_rate=0.3, progress=False)
    found = Jhat.derivative().vector
    np.testing.assert_allclose(found, gradient_at(Jhat, kappa.weights), rtol=1e-6, atol=1e-12)


class FailsAt:
    """A reduced functional whose evaluation with this number fails."""

    def __init__(self, Jhat, number):
        self.Jhat, self.left, self.controls = Jhat, number, Jhat.controls

    def __call__(self, values):
        self.left -= 1
        if self.left == 0:
            raise ConvergenceError("the solver has failed")
        return self.Jhat(values)

    def derivative(self):
        return self.Jhat.derivative()


def test_a_last_evaluation_that_fails_is_a_warning_with_the_result_kept():
    Jhat, kappa = poisson()
    options = {"maxiter": 3, "learning_rate": 1.0, "progress": False}
    fails = FailsAt(Jhat, number=5)  # the first, three of Adam's, then back to the best
    with pytest.warns(UserWarning, match=r"at the best weights.*the solver has failed.*evaluate"):
        result = femnn.fit(fails, "Adam", **options)
    assert fails.left == 0
    assert np.array_equal(kappa.weights.vector, result.weights)


def test_convergence_by_the_loss_and_limit_of_evaluations():
    for scale in (1.0, 1e4):  # a fraction of the loss, whatever its unit
        Jhat, kappa = poisson(scale=scale)
        result = femnn.fit(Jhat, ftol=1e-2, progress=False)
        check_consistency(result, Jhat, kappa)
        assert result.reason == "converged"
        losses = np.array([s.loss for s in result.history])
        fall = 1 - losses[1:] / losses[:-1]
        assert fall[-1] <= 1e-2
        assert (fall[:-1] > 1e-2).all()
        assert len(fall) > 2
    limited = femnn.fit(poisson()[0], options={"maxfun": 5}, progress=False)
    assert limited.reason == "evaluations"
    assert limited.evaluations <= 7


def test_training_goes_on_where_it_stopped():
    Jhat, kappa = poisson()
    first = femnn.fit(Jhat, maxiter=4, progress=False)
    second = femnn.fit(Jhat, maxiter=4, progress=False)
    assert second.initial_loss == pytest.approx(first.loss, rel=1e-8)
    assert second.loss < first.loss
    assert np.array_equal(kappa.weights.vector, second.weights)


def test_best_weights_are_kept_not_the_last():
    Jhat, kappa = poisson()
    result = femnn.fit(Jhat, "Adam", maxiter=6, learning_rate=1.0, progress=False)
    check_consistency(result, Jhat, kappa)
    losses = [s.loss for s in result.history]
    assert losses[-1] > min(losses), "the test's learning rate is too small"
    assert result.loss == min(losses)


@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_several_networks_at_once(method):
    Jhat, (kappa, source) = poisson(explicit=femnn.MLP(2, 4, 1, output="exp", seed=2))
    before = [c.weights.vector for c in (kappa, source)]
    result = femnn.fit(Jhat, method, maxiter=10, progress=False)
    assert result.loss < result.initial_loss
    n = len(before[0])
    assert result.weights.shape == (n + len(before[1]),)
    assert np.array_equal(kappa.weights.vector, result.weights[:n])
    assert np.array_equal(source.weights.vector, result.weights[n:])
    assert not np.array_equal(kappa.weights.vector, before[0])
    assert not np.array_equal(source.weights.vector, before[1])
    assert Jhat([kappa.weights, source.weights]) == pytest.approx(result.loss, rel=1e-8)


# When something goes wrong


@pytest.mark.parametrize(
    ("method", "reach", "rate"), [("L-BFGS", 0.5, 0), ("Adam", 0.8, 0.3)], ids=["L-BFGS", "Adam"]
)
def test_a_forward_solve_that_fails_is_a_rejected_step(method, reach, rate):
    net = Fragile(reach)
    Jhat, kappa = poisson(net)
    start = kappa.weights.vector
    with pytest.raises(ConvergenceError):
        Jhat(kappa.weights.like(start + 1.0))
    options = {"learning_rate": rate} if rate else {}
    result = femnn.fit(Jhat, method, maxiter=25, progress=False, **options)
    check_consistency(result, Jhat, kappa)
    assert result.rejected > 0
    assert result.evaluations > result.rejected + 1
    assert result.loss < 0.9 * result.initial_loss
    assert np.linalg.norm(result.weights - start) <= reach
    assert f"({result.rejected} rejected)" in str(result)


def test_rejected_steps_are_shown(capfd):
    Jhat, _ = poisson(Fragile(0.5))
    result = femnn.fit(Jhat, maxiter=5)
    out, err = capfd.readouterr()
    assert result.rejected > 0
    assert (out + err).count("fit: rejected step: ") == result.rejected


def test_a_first_solve_that_fails_reaches_the_caller():
    net = Fragile(100.0)
    Jhat, kappa = poisson(net)
    before = kappa.weights.vector
    net.reach = -1.0
    with pytest.raises(ConvergenceError, match="gave NaN or infinity"):
        femnn.fit(Jhat, progress=False)
    assert np.array_equal(kappa.weights.vector, before)


def test_a_loss_that_is_not_finite_is_a_rejected_step():
    Jhat, kappa = poisson()
    start, evaluate = kappa.weights.vector, Jhat.functional

    class Overflows:
        """The functional, infinite far from the start."""

        controls = Jhat.controls

        def __call__(self, w):
            value = Jhat(w)
            return np.inf if np.linalg.norm(w.vector - start) > 0.5 else value

        def derivative(self):
            return Jhat.derivative()

    result = femnn.fit(Overflows(), maxiter=15, progress=False)
    assert result.rejected > 0
    assert np.isfinite(result.loss)
    assert result.loss < result.initial_loss
    assert evaluate is Jhat.functional


@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_other_errors_reach_the_caller_and_the_best_weights_are_kept(method):
    net = Failing()
    Jhat, kappa = poisson(net)
    seen = []

    def callback(step, weights):
        seen.append((step.loss, weights.copy()))
        if step.iteration == 4:
            net.left = 3  # fails within the next evaluation

    with pytest.raises(RuntimeError, match="the device is gone"):
        femnn.fit(Jhat, method, callback=callback, progress=False, **rate(method, 0.03))
    best = min(seen, key=lambda s: s[0])
    assert len(seen) == 5
    assert best[0] < seen[0][0]
    assert np.array_equal(kappa.weights.vector, best[1])
    net.left = None
    assert Jhat(kappa.weights) == pytest.approx(best[0], rel=1e-8), "cannot be used again"


def test_an_error_in_the_callback_reaches_the_caller():
    Jhat, kappa = poisson()
    start = kappa.weights.vector

    def callback(step, weights):
        if step.iteration == 2:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        femnn.fit(Jhat, callback=callback, progress=False)
    assert not np.array_equal(kappa.weights.vector, start)


@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_ctrl_c_returns_the_best_so_far(method):
    Jhat, kappa = poisson()
    marker = []

    def mine(number, frame):
        marker.append(number)

    def callback(step, weights):
        if step.iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGINT, mine)
    try:
        result = femnn.fit(Jhat, method, callback=callback, progress=False)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, previous)
    assert marker == []
    check_consistency(result, Jhat, kappa)
    assert result.reason == "interrupted"
    assert not result.success
    assert result.iterations == 3
    assert result.loss < result.initial_loss


def test_a_second_ctrl_c_stops_at_once():
    Jhat, kappa = poisson()
    start, previous = kappa.weights.vector, signal.getsignal(signal.SIGINT)

    def callback(step, weights):
        if step.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        femnn.fit(Jhat, callback=callback, progress=False)
    assert signal.getsignal(signal.SIGINT) is previous
    assert not np.array_equal(kappa.weights.vector, start)
    assert Jhat(kappa.weights) == pytest.approx(Jhat(kappa.weights.like(kappa.weights.vector)))


def test_handler_is_restored_after_an_error():
    previous = signal.getsignal(signal.SIGINT)
    Jhat, _ = poisson()
    with pytest.raises(ZeroDivisionError):
        femnn.fit(Jhat, callback=lambda step, w: 1 / 0, progress=False)
    assert signal.getsignal(signal.SIGINT) is previous


def test_training_outside_the_main_thread():
    import threading

    Jhat, _ = poisson()
    results = []
    thread = threading.Thread(
        target=lambda: results.append(femnn.fit(Jhat, maxiter=2, progress=False))
    )
    thread.start()
    thread.join(timeout=60)
    assert [r.reason for r in results] == ["iterations"]


@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_nan_in_the_observations(method):
    Jhat, kappa = poisson(noise=float("nan"))
    before, calls = kappa.weights.vector, []
    with pytest.raises(ValueError, match=r"at the initial weights the loss is nan.*observations"):
        femnn.fit(Jhat, method, callback=lambda *a: calls.append(a), progress=False)
    assert calls == []
    assert kappa.evaluator.sweeps["vjp"] <= 1, "more than one evaluation was made"
    assert np.array_equal(kappa.weights.vector, before)


def test_weights_that_are_not_finite(capfd):
    Jhat, kappa = poisson()
    sweeps = dict(kappa.evaluator.sweeps)
    with torch.no_grad():
        kappa.net.layers[0].weight[2, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of the 19 weights of MLP are NaN or infinite"):
        femnn.fit(Jhat)
    assert kappa.evaluator.sweeps == sweeps


def test_unknown_method():
    Jhat, _ = poisson()
    with pytest.raises(ValueError, match=r"method='SGD' is unknown, use one of \['Adam', 'L-BFGS"):
        femnn.fit(Jhat, "SGD")


REFUSED = [
    ({"maxiter": -3}, ValueError, r"maxiter=-3, wanted 0 or more"),
    ({"maxiter": 3.7}, ValueError, r"maxiter=3\.7, wanted a whole number"),
    ({"maxiter": "3"}, TypeError, r"maxiter='3', wanted a whole number"),
    ({"target": float("nan")}, ValueError, r"target=nan, wanted a finite number"),
    ({"target": "low"}, TypeError, r"target='low', wanted a number"),
    ({"gtol": -1e-3}, ValueError, r"gtol=-0\.001, wanted a finite number, 0 or more"),
    ({"ftol": float("inf")}, ValueError, r"ftol=inf, wanted a finite number, 0 or more"),
    ({"learning_rate": 0.1}, ValueError, r"learning_rate=0\.1 is nothing that L-BFGS uses"),
    ({"method": "Adam", "learning_rate": 0}, ValueError, r"learning_rate=0 takes no steps"),
    ({"method": "Adam", "learning_rate": -1}, ValueError, r"learning_rate=-1, wanted .* 0 or more"),
    ({"method": "Adam", "ftol": 1e-3}, ValueError, r"ftol=0\.001 is nothing that Adam uses"),
    ({"options": {"maxcorr": 5}}, ValueError, r"'maxcorr', which L-BFGS .* mean 'maxcor'\?"),
    ({"options": {"maxiter": 5}}, ValueError, r"'maxiter', .* an argument of fit: maxiter="),
    ({"options": {"maxls": 0}}, ValueError, r"options\['maxls'\]=0, wanted 1 or more"),
    ({"options": ["maxcor"]}, TypeError, r"options is a list, wanted a dict"),
    ({"method": "Adam", "options": {"beta": (0.9, 0.9)}}, ValueError, r"mean 'betas'\?"),
    ({"method": "Adam", "options": {"betas": (2, 0.9)}}, ValueError, "Invalid beta parameter"),
    ({"method": "Adam", "options": {"lr": 0.1}}, ValueError, r"of fit: learning_rate=\.\.\."),
    ({"method": "Adam", "options": {"maxcor": 5}}, ValueError, r"'maxcor', which Adam does not"),
    ({"callback": 3}, TypeError, r"callback is a int, wanted a function"),
]


@pytest.mark.parametrize(("settings", "error", "message"), REFUSED, ids=lambda x: str(x)[:40])
def test_settings_that_mean_nothing_are_refused(settings, error, message):
    Jhat, kappa = poisson()
    before = kappa.evaluator.sweeps.copy()
    with pytest.raises(error, match=message):
        femnn.fit(Jhat, **settings, progress=False)
    assert kappa.evaluator.sweeps == before


def test_numpys_numbers_are_settings_too():
    Jhat, _ = poisson()
    options = {"maxcor": np.int64(5)}
    result = femnn.fit(
        Jhat, maxiter=np.int32(2), target=np.float32(0), options=options, progress=False
    )
    assert result.iterations == 2


def test_what_is_not_a_reduced_functional_of_numbers_is_refused():
    Jhat, kappa = poisson()
    with pytest.raises(TypeError, match=r"got a AdjFloat, wanted a ReducedFunctional: make it of"):
        femnn.fit(Jhat.functional)
    with pytest.raises(TypeError, match=r"got a float, wanted a ReducedFunctional"):
        femnn.fit(1.0)
    field = ReducedFunctional(kappa.operands[0], Control(kappa.weights))
    with pytest.raises(TypeError, match=r"the functional is a Function, wanted a number: assemble"):
        femnn.fit(field)


def test_a_tape_that_was_cleared_is_named():
    Jhat, kappa = poisson()
    before = kappa.weights.vector
    get_working_tape().clear_tape()
    with pytest.raises(ValueError, match=r"no block on the tape computes the functional: the tape"):
        femnn.fit(Jhat, progress=False)
    poisson(kappa.net)  # other blocks on the same tape
    with pytest.raises(ValueError, match=r"no block on the tape computes the functional"):
        femnn.fit(Jhat, progress=False)
    assert np.array_equal(kappa.weights.vector, before)


def test_a_network_without_trainable_parameters_is_named():
    net = femnn.MLP(1, 6, 1, output="softplus", seed=1).requires_grad_(False)
    Jhat, _ = poisson(net)
    with pytest.raises(ValueError, match=r"controls \(MLP\) have no trainable parameters: wanted"):
        femnn.fit(Jhat, progress=False)


def shared_trunk(both):
    """Two laws whose networks have the same trunk; the loss depends on one or on both."""
    trunk = femnn.MLP(1, 4, 4, seed=1)
    heads = [femnn.MLP(4, 3, 1, output="softplus", seed=s) for s in (2, 3)]
    V = FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)
    f = Function(V).interpolate(SpatialCoordinate(V.mesh())[0])
    first, second = (femnn.NeuralCoefficient(torch.nn.Sequential(trunk, h), f) for h in heads)
    continue_annotation()
    J = loss_of_two(first, second, both)
    pause_annotation()
    return J, first, second


def loss_of_two(first, second, both=True):
    other = femnn.assemble(second**2 * dx)
    J = femnn.assemble((first - 2) ** 2 * dx)
    return J + other if both else J


def test_networks_that_share_a_part_follow_the_first_of_them():
    """One control: the slope of the common weights is that of changing them in torch."""
    J, first, second = shared_trunk(both=True)
    Jhat = ReducedFunctional(J, Control(second.weights))  # used first
    gradient, h, values = Jhat.derivative().vector, 1e-5, []
    weight = second.weights.parameters[0]
    for sign in (1, -2):
        with torch.no_grad():
            weight[0, 0] += sign * h
        values.append(float(loss_of_two(first, second)))
    assert gradient[0] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-7)
    assert Jhat(second.weights) == pytest.approx(values[1], rel=1e-12)
    w = second.weights
    direction = w.like(np.random.default_rng(1).normal(size=len(w)))
    orders = taylor_to_dict(Jhat, w.like(w.vector + 0.1), direction)
    assert min(orders["R1"]["Rate"]) > 1.95
    assert min(orders["R2"]["Rate"]) > 2.95


def test_the_second_of_networks_that_share_a_part_is_refused_as_the_control():
    J, first, second = shared_trunk(both=True)
    message = r"another Sequential in the model has 0\.layers\.0\.weight, .* those of a part. Put"
    Jhat = ReducedFunctional(J, Control(first.weights))
    for use in (
        lambda: Jhat(first.weights),
        Jhat.derivative,
        lambda: femnn.fit(Jhat, progress=False),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    with pytest.raises(ValueError, match="two controls share some of their parameters"):
        femnn.fit(
            ReducedFunctional(J, [Control(first.weights), Control(second.weights)]), progress=False
        )


def test_torch_adds_the_parts_of_networks_that_share_one():
    J, first, second = shared_trunk(both=True)
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(first.weights), Control(second.weights)]))
    weight = first.weights.parameters[0]
    layer().backward()
    slope, h = weight.grad[0, 0].item(), 1e-5
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            weight[0, 0] += sign * h
            values.append(layer().item())
    assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-7)


def test_a_network_that_shares_a_part_elsewhere_on_the_tape_does_no_harm():
    J, first, _ = shared_trunk(both=False)
    result = femnn.fit(ReducedFunctional(J, Control(first.weights)), maxiter=3, progress=False)
    assert result.loss < result.initial_loss


def test_interruption_is_a_block_of_its_own():
    """The first Ctrl-C asks, the second interrupts, and the former handler comes back."""
    asked, previous = [], signal.getsignal(signal.SIGINT)
    with Interruption(lambda: asked.append(1)) as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested
        assert asked == [1]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is previous
    with interruption:
        assert not interruption.requested


def test_a_loss_of_its_own_for_other_optimisers():
    """SciPy's conjugate gradients on fit's loss object, with its best point."""
    Jhat, kappa = poisson()
    loss = Loss(Jhat)
    start = loss.start()
    found = scipy.optimize.minimize(
        loss, start.vector, jac=True, method="CG", options={"maxiter": 5}
    )
    assert loss.best.loss < start.loss
    assert loss.best.loss <= found.fun
    loss.keep_best()
    loss.return_to_best()
    assert np.array_equal(kappa.weights.vector, loss.best.vector)
    np.testing.assert_allclose(Jhat.derivative().vector, loss.best.gradient, rtol=1e-6, atol=1e-12)


def test_nothing_is_recorded_while_training():
    Jhat, _ = poisson()
    blocks = len(get_working_tape().get_blocks())
    continue_annotation()
    femnn.fit(Jhat, maxiter=2, progress=False)
    assert annotate_tape()
    assert len(get_working_tape().get_blocks()) == blocks


# Cost


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_and_kernels_do_not_grow(monkeypatch):
    from pyop2 import global_kernel

    net = femnn.MLP(1, 6, 1, output="softplus", seed=1)
    Jhat, coefficients = poisson(net, n=20, explicit=femnn.MLP(2, 4, 1, output="exp", seed=2))
    weights = [c.weights for c in coefficients]
    rng, loads, load = np.random.default_rng(0), [], global_kernel.load
    monkeypatch.setattr(global_kernel, "load", lambda *a, **k: loads.append(a) or load(*a, **k))

    def evaluate(times):
        for _ in range(times):
            point = [w.like(w.vector + 0.05 * rng.standard_normal(len(w))) for w in weights]
            Jhat(point)
            Jhat.derivative()
        gc.collect()

    evaluate(10)
    blocks = len(get_working_tape().get_blocks())
    loads.clear()
    tracemalloc.start()
    try:
        evaluate(15)
        before = tracemalloc.get_traced_memory()[0]
        evaluate(20)
        growth = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # one field of this mesh kept each time would be 70 kB
    assert growth < 35e3, f"{growth} bytes of Python objects are left by 20 evaluations"
    before = resident()
    evaluate(40)
    # one field kept each time would be 2.8 MB in all, one matrix 140 MB, its factors more
    assert resident() - before < 2e6
    assert loads == []
    assert len(get_working_tape().get_blocks()) == blocks
    assemble(coefficients[0].operands[0] ** 11 * dx)
    assert loads, "the test does not see kernels that are loaded"


# On several ranks


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_training_does_not_depend_on_ranks(method):
    comm = MPI.COMM_WORLD
    options = {"maxiter": 8, "progress": False, **rate(method, 0.02)}
    Jhat, kappa = poisson(comm=comm)
    result = femnn.fit(Jhat, method, **options)
    assert len(set(comm.allgather(result.weights.tobytes()))) == 1
    assert len(set(comm.allgather(kappa.weights.vector.tobytes()))) == 1
    assert len(set(comm.allgather([s.loss for s in result.history].__repr__()))) == 1
    alone = femnn.fit(poisson(comm=MPI.COMM_SELF)[0], method, **options)
    losses, expected = ([s.loss for s in r.history] for r in (result, alone))
    assert np.allclose(losses, expected, rtol=1e-8, atol=0)


@pytest.mark.parallel([1, 2, 3])
def test_rejection_callback_and_interrupt_on_several_ranks():
    comm = MPI.COMM_WORLD
    last = comm.size - 1
    Jhat, _ = poisson(Fragile(0.5), comm=comm)
    rejecting = femnn.fit(Jhat, maxiter=8, progress=False)
    assert rejecting.rejected > 0
    Jhat, _ = poisson(comm=comm)
    stopped = femnn.fit(
        Jhat, callback=lambda step, w: comm.rank == last and step.iteration == 2, progress=False
    )

    def interrupt(step, weights):
        if step.iteration == 3 and comm.rank == last:
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = femnn.fit(Jhat, callback=interrupt, progress=False)
    reasons = (rejecting.rejected, stopped.reason, stopped.iterations, interrupted.reason)
    assert reasons[1:] == ("callback", 2, "interrupted")
    assert len(set(comm.allgather(reasons))) == 1


@pytest.mark.parallel([2, 3])
def test_a_callback_that_raises_on_one_rank_raises_on_all():
    comm = MPI.COMM_WORLD
    last = comm.size - 1
    Jhat, kappa = poisson(comm=comm)
    start = kappa.weights.vector

    def callback(step, weights):
        if step.iteration == 2 and comm.rank == last:
            raise KeyError("mine")

    kind, message = (KeyError, "mine") if comm.rank == last else (RuntimeError, "another rank")
    with pytest.raises(kind, match=message):
        femnn.fit(Jhat, callback=callback, progress=False)
    kept = kappa.weights.vector
    assert not np.array_equal(kept, start)
    assert len(set(comm.allgather(kept.tobytes()))) == 1
    femnn.fit(Jhat, maxiter=1, progress=False)


@pytest.mark.parallel([2, 3])
def test_weights_that_differ_between_ranks_are_refused():
    comm = MPI.COMM_WORLD
    Jhat, kappa = poisson(comm=comm)
    with torch.no_grad():
        next(kappa.net.parameters()).add_(comm.rank)
    mine = kappa.weights.vector
    with pytest.raises(RuntimeError, match="the 19 weights of MLP differ between ranks"):
        femnn.fit(Jhat, progress=False)
    assert np.array_equal(kappa.weights.vector, mine)


@pytest.mark.parallel([1, 2, 3])
def test_progress_is_shown_on_rank_zero_only(capfd):
    Jhat, _ = poisson(comm=MPI.COMM_WORLD)
    capfd.readouterr()
    femnn.fit(Jhat, maxiter=2)
    out, err = capfd.readouterr()
    assert out == ""
    if MPI.COMM_WORLD.rank == 0:
        assert "fit" in err
        assert "loss" in err
        assert "|gradient|" in err
    else:
        assert err == ""
    femnn.fit(Jhat, maxiter=2, progress=False)
    assert capfd.readouterr() == ("", "")
