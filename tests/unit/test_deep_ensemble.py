"""Trainings from several starts with data drawn anew, beside the posterior of a linear model."""

import os
import signal

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.parallel import gathered

WELLS = np.random.default_rng(5).uniform(0.1, 0.9, (9, 2))
TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


def source(law=None, prior=True, loss=None):
    """Nine readings of -div(grad u) = s(x), with a law s that is linear in its weights."""
    get_working_tape().clear_tape()
    mesh = UnitSquareMesh(5, 5)
    V = FunctionSpace(mesh, "CG", 1)
    u, v, bc = Function(V), TestFunction(V), DirichletBC(V, 0, "on_boundary")
    torch.manual_seed(0)
    net = torch.nn.Linear(1, 1, dtype=torch.float64) if law is None else law
    s = femnn.NeuralCoefficient(net, SpatialCoordinate(mesh)[0])
    values = 0.5 * np.sin(3 * WELLS[:, 0]) * WELLS[:, 1]
    data = femnn.Observations(femnn.Stations(mesh, WELLS), values, 0.05, loss=loss)
    continue_annotation()
    femnn.solve(inner(grad(u), grad(v)) * dx - s * v * dx == 0, u, bc, solver_parameters=TIGHT)
    J = data.misfit(u)
    if prior:
        J = J + femnn.GaussianPrior(s.weights, 0.1, mean=1.0).energy()
    pause_annotation()
    return ReducedFunctional(J, Control(s.weights)), s


@pytest.mark.parallel([1, 2])
def test_trainings_of_a_linear_model_are_draws_of_its_posterior():
    Jhat, s = source()
    start = s.weights.vector.copy()
    trained = femnn.deep_ensemble(Jhat, 50, gtol=1e-9)
    assert np.array_equal(s.weights.vector, start)
    assert len(set(gathered(COMM_WORLD, trained.draws.tobytes()))) == 1
    assert {result.reason for result in trained.results} == {"converged"}
    femnn.fit(Jhat, "gauss-newton", gtol=1e-9, progress=False)
    posterior = femnn.laplace(Jhat)
    root = np.linalg.cholesky(posterior.covariance)
    off = np.linalg.solve(root, (trained.draws - posterior.mean).T).T
    assert np.abs(off.mean(0)).max() < 3 / np.sqrt(50)
    assert np.abs(off.T @ off / 50 - np.eye(2)).max() < 3 * np.sqrt(2 / 50)
    assert np.all(trained.losses > Jhat(s.weights.like(posterior.mean)))
    assert trained.losses[0] == pytest.approx(Jhat(trained.values(trained.draws[0])))


def test_without_noise_all_find_the_minimum():
    Jhat, s = source()
    starts = np.array([[3.0, 1.0], [-2.0, 0.0]])
    trained = femnn.deep_ensemble(Jhat, starts, randomize=False, gtol=1e-9)
    femnn.fit(Jhat, "gauss-newton", gtol=1e-9, progress=False)
    assert np.allclose(trained.draws, s.weights.vector, atol=1e-6)
    assert [r.history[0].loss for r in trained.results] == pytest.approx(
        [float(Jhat(s.weights.like(x))) for x in starts]
    )
    x = np.linspace(0, 1, 6).reshape(2, 3)
    laws = trained.law(s, x)
    assert laws.shape == (2, 2, 3)
    assert np.allclose(laws[1], trained.draws[1, 0] * x + trained.draws[1, 1])


def test_starts_may_have_no_prior():
    Jhat, _ = source(prior=False)
    trained = femnn.deep_ensemble(Jhat, [[3.0, 1.0]], method="L-BFGS", gtol=1e-9)
    value = trained.results[0].loss
    assert value < trained.losses[0]  # of the data that were drawn, and of those that are there
    with pytest.raises(ValueError, match=r"deep_ensemble: the control .* has no prior"):
        femnn.deep_ensemble(Jhat, 3)


@pytest.mark.parallel([1, 3])  # of three groups of ranks one has no member
def test_members_of_an_ensemble_have_data_of_their_own():
    net = torch.nn.Linear(1, 1, dtype=torch.float64)
    torch.nn.init.constant_(net.weight, 0.5)
    torch.nn.init.constant_(net.bias, 0.2)
    weights = femnn.Weights.of(net)

    def build(factor, comm):
        mesh = UnitSquareMesh(3, 3, comm=comm)
        V = FunctionSpace(mesh, "CG", 1)
        u, v, bc = Function(V), TestFunction(V), DirichletBC(V, 0, "on_boundary")
        s = femnn.NeuralCoefficient(net, SpatialCoordinate(mesh)[0])
        values = 0.1 * factor * np.ones(4)
        data = femnn.Observations(femnn.Stations(mesh, WELLS[:4]), values, 0.01)
        femnn.solve(inner(grad(u), grad(v)) * dx - factor * s * v * dx == 0, u, bc)
        return data.misfit(u)

    continue_annotation()
    members = femnn.ensemble(build, [1.0, 2.0], net)
    J = members.functional + femnn.GaussianPrior(weights, 0.1).energy()
    pause_annotation()
    Jhat = ReducedFunctional(J, members.controls)
    before = Jhat(weights)
    trained = femnn.deep_ensemble(Jhat, 20, gtol=1e-7)
    assert Jhat(weights) == pytest.approx(before, rel=1e-12)
    femnn.fit(Jhat, "gauss-newton", gtol=1e-7, progress=False)
    posterior = femnn.laplace(Jhat)
    ratio = trained.draws.std(0) / posterior.std
    assert np.all((ratio > 0.6) & (ratio < 1.5))


class UntilStopped(torch.nn.Module):
    """A law after so many evaluations of which Ctrl-C comes, or that has no value far off."""

    def __init__(self, left=None, reach=np.inf):
        super().__init__()
        self.net, self.left, self.reach = torch.nn.Linear(1, 1, dtype=torch.float64), left, reach

    def forward(self, x):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
        far = self.net.weight.detach().abs().max() > self.reach
        return self.net(x) * (float("nan") if far else 1.0)


def test_ctrl_c_keeps_the_trainings_that_have_ended():
    law = UntilStopped()
    Jhat, s = source(law)
    start = s.weights.vector.copy()
    whole = femnn.deep_ensemble(Jhat, 6, gtol=1e-9)
    law.left = 40
    some = femnn.deep_ensemble(Jhat, 6, gtol=1e-9)
    assert 0 < len(some.draws) < 6
    assert np.allclose(some.draws, whole.draws[: len(some.draws)], rtol=1e-8)
    assert np.array_equal(s.weights.vector, start)
    law.left = 2
    with pytest.raises(KeyboardInterrupt):
        femnn.deep_ensemble(Jhat, 6, gtol=1e-9)


def test_a_start_at_which_the_model_fails_is_left_out():
    Jhat, _ = source(UntilStopped(reach=50))
    starts = [[1.0, 1.0], [100.0, 1.0], [2.0, 1.0]]
    with pytest.warns(UserWarning, match="failed at the start of training 1, which is left out"):
        trained = femnn.deep_ensemble(Jhat, starts, gtol=1e-9)
    assert len(trained.draws) == len(trained.results) == 2
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(RuntimeError, match="failed at all starts"),
    ):
        femnn.deep_ensemble(Jhat, starts[1:2])


def test_starts_are_drawn_inside_bounds():
    Jhat, _ = source()
    trained = femnn.deep_ensemble(Jhat, 4, bounds=(0.5, 1.5))
    assert trained.draws.min() >= 0.5
    assert trained.draws.max() <= 1.5


def test_what_cannot_be_drawn_is_refused():
    for change, message in (
        (lambda J, s: 0.25 * J, r"has 0.25 times"),
        (lambda J, s: J + s.weights.squared_norm(), r"that is no energy of a control's prior"),
        (lambda J, s: J**2, r"is no sum of misfits and energies"),
    ):
        Jhat, s = source()
        continue_annotation()
        J = change(Jhat.functional, s)
        pause_annotation()
        changed = ReducedFunctional(J, Jhat.controls)
        with pytest.raises(ValueError, match=message):
            femnn.deep_ensemble(changed, 2)
    trained = femnn.deep_ensemble(changed, 2, randomize=False, gtol=1e-7)
    assert np.allclose(*trained.draws, rtol=1e-3)


def test_wrong_use():
    Jhat, s = source(loss=femnn.Huber())
    with pytest.raises(ValueError, match=r"loss Huber\(1.345\), whose errors cannot be drawn"):
        femnn.deep_ensemble(Jhat, 2)
    Jhat, s = source()
    with pytest.raises(ValueError, match=r"deep_ensemble got checkpoint, which each training"):
        femnn.deep_ensemble(Jhat, 2, checkpoint="here")
    with pytest.raises(TypeError, match=r"deep_ensemble got a Adam as method: wanted a name"):
        femnn.deep_ensemble(Jhat, 2, method=torch.optim.Adam(s.net.parameters()))
    with pytest.raises(ValueError, match=r"starts of shape \(2, 3\): wanted \(n, 2\)"):
        femnn.deep_ensemble(Jhat, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"starts that are NaN"):
        femnn.deep_ensemble(Jhat, [[np.nan, 0.0]])
