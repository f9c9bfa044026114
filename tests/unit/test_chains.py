"""Chains from the Laplace posterior: known posteriors, and diagnostics with closed forms."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.inference.diagnostics import effective_draws, r_hat


def model(nonlinear=0.0):
    """c0 + c1 x, and what bends, seen at six places."""
    get_working_tape().clear_tape()
    mesh = UnitIntervalMesh(4)
    x = np.linspace(0.1, 0.9, 6)
    stations = femnn.Stations(mesh, x)
    c, X = Constant([0.3, 0.2], name="c"), SpatialCoordinate(mesh)[0]
    data = femnn.Observations(stations, 1 - 2 * x, 0.5)
    prior = femnn.GaussianPrior(c, 1.0)
    continue_annotation()
    J = data.misfit(c[0] + c[1] * X + nonlinear * c[0] ** 3) + prior.energy()
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(c))
    femnn.fit(Jhat, "gauss-newton", progress=False)
    return Jhat, femnn.laplace(Jhat)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("method", ["h-pcn", "pcn"])
def test_chains_of_a_linear_model(method):
    """The posterior is normal: every proposal from it is taken, and moments are known."""
    _, posterior = model()
    found = femnn.chains(
        posterior, 400, n_chains=2, method=method, step=0.9 if method == "h-pcn" else 0.5
    )
    if method == "h-pcn":
        assert found.accepted == 1.0
    assert found.draws.shape == (2, 400, 2)
    error = (found.mean - posterior.mean) / posterior.std
    assert np.abs(error).max() < 4 / np.sqrt(found.ess.min())
    assert np.allclose(found.std, posterior.std, rtol=6 / np.sqrt(found.ess.min()))
    assert found.r_hat.max() < 1.1
    assert found.solves == 2 * 501
    assert all(np.array_equal(d, found.draws) for d in COMM_WORLD.allgather(found.draws))


def test_a_chain_is_right_where_the_approximation_is_not():
    """Against numerical integration of the density."""
    Jhat, posterior = model(nonlinear=0.5)
    found = femnn.chains(posterior, 700, n_chains=2, seed=3)
    grid = [posterior.mean[i] + posterior.std[i] * np.linspace(-5, 5, 15) for i in (0, 1)]
    with stop_annotating():
        energy = [[float(Jhat(Constant([a, b]))) for b in grid[1]] for a in grid[0]]
    weights = np.exp(-np.array(energy) + np.min(energy))
    weights /= weights.sum()
    mean = np.array([(weights.sum(1) * grid[0]).sum(), (weights.sum(0) * grid[1]).sum()])
    std = np.sqrt(
        [(weights.sum(1) * grid[0] ** 2).sum(), (weights.sum(0) * grid[1] ** 2).sum()] - mean**2
    )
    assert np.abs((found.mean - mean) / std).max() < 4 / np.sqrt(found.ess.min())
    assert np.allclose(found.std, std, rtol=0.15)
    assert found.accepted > 0.1
    assert "accepted" in repr(found)


def test_diagnostics_of_known_chains():
    """An AR(1) process of correlation rho has n (1 - rho) / (1 + rho) effective draws."""
    random = np.random.default_rng(0)
    for rho in (0.0, 0.6, 0.9):
        chain = np.zeros((4, 4000, 3))
        noise = random.standard_normal(chain.shape)
        chain[:, 0] = noise[:, 0]
        for i in range(1, 4000):
            chain[:, i] = rho * chain[:, i - 1] + np.sqrt(1 - rho**2) * noise[:, i]
        expected = 16000 * (1 - rho) / (1 + rho)
        assert np.allclose(effective_draws(chain), expected, rtol=0.25)
        assert r_hat(chain).max() < 1.02
    chain[0] += 3.0
    assert r_hat(chain).min() > 1.2
    assert effective_draws(chain).max() < 100


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"posterior": 3.0}, TypeError, "got a float: wanted the posterior"),
        ({"method": "mala"}, ValueError, "wanted one of"),
        ({"step": 2.0}, ValueError, "between 0 and 1"),
        ({"n": 1}, ValueError, "wanted 4 or more"),
    ],
)
def test_chains_that_mean_nothing(arguments, error, message):
    given = {"n": 10} | arguments
    posterior = given.pop("posterior", None)
    with pytest.raises(error, match=message):
        femnn.chains(model()[1] if posterior is None else posterior, **given)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("method", ["h-pcn", "pcn"])
def test_a_model_that_fails_for_a_first_draw(monkeypatch, method):
    """The chain starts nearer to the mean; the region where the model fails is never visited."""
    _, posterior = model()
    evaluate, low, tried = posterior.terms.evaluate, posterior.mean - 0.2 * posterior.std, []

    def fails_below(x, value=None):
        tried.append(x)
        if (x < low).any():
            raise ConvergenceError("below")
        return evaluate(x, value)

    monkeypatch.setattr(posterior.terms, "evaluate", fails_below)
    found = femnn.chains(posterior, 100, n_chains=3, method=method, seed=1)
    assert (tried[0] < low).any()
    assert (found.draws >= low).all()
    assert found.accepted > 0.02
    assert found.solves == len(tried) - 1 > 3 * 126

    def fails(x, value=None):
        raise ConvergenceError("always")

    monkeypatch.setattr(posterior.terms, "evaluate", fails)
    with pytest.raises(RuntimeError, match=r"failed for 6 draws, the last one 0\.03125 posterior"):
        femnn.chains(posterior, 10, method=method)
