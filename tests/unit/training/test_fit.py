"""fit: what it reaches and what it reports."""

import numpy as np
import pytest
import torch
from checkpoint_schedules import Revolve
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from tests.unit.training.support import (
    TIGHT,
    Counting,
    FailsAt,
    Fragile,
    check_consistency,
    gradient_at,
    poisson,
    rate,
)


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
