"""fit when something goes wrong: solves and callbacks that fail, Ctrl-C, data that are NaN."""

import os
import signal

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn
from tests.unit.training.support import (
    Failing,
    Fragile,
    check_consistency,
    poisson,
    rate,
)


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
    thread.join(timeout=300)
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
