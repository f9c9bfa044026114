"""What fit refuses, and networks that share parameters."""

import os
import signal

import numpy as np
import pytest
import scipy.optimize
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.training.interruption import Interruption
from femnn.training.loss import Loss
from tests.unit.training.support import (
    poisson,
)


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
