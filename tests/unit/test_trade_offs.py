"""What data do not tell apart: two laws of which only the sum is seen."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn


@pytest.fixture(scope="module")
def two_laws():
    """u = a(x) + b(x): the functional's posterior, both laws, and a line."""
    get_working_tape().clear_tape()
    mesh = UnitIntervalMesh(6)
    V, X = FunctionSpace(mesh, "CG", 1), SpatialCoordinate(mesh)[0]
    x = np.linspace(0.05, 0.95, 20)
    data = femnn.Observations(femnn.Stations(mesh, x), np.sin(2 * x), 0.02)
    nets = [femnn.MLP(1, 3, 1, init="normal", seed=seed) for seed in (0, 1)]
    a, b = (femnn.NeuralCoefficient(net, X) for net in nets)
    u, v = Function(V), TestFunction(V)
    continue_annotation()
    femnn.solve((u - a - b) * v * dx == 0, u)
    J = data.misfit(u)
    for law in (a, b):
        J = J + femnn.GaussianPrior(law.weights, 1.0, groups="all").energy()
    pause_annotation()
    Jhat = ReducedFunctional(J, [Control(a.weights), Control(b.weights)])
    femnn.fit(Jhat, "gauss-newton", maxiter=100, progress=False)
    return femnn.laplace(Jhat), a, b, np.linspace(0, 1, 15)


def test_the_difference_of_two_laws_is_not_seen(two_laws):
    posterior, a, b, x = two_laws
    first, *others = posterior.trade_offs((a, x), (b, x))
    assert [c.shape for c in first.changes] == [(15,), (15,)]
    size = np.abs(first.changes[0]).max()
    assert np.allclose(first.changes[0], -first.changes[1], atol=0.1 * size)
    assert first.ratio > 0.9
    assert first.std >= others[0].std >= others[1].std
    # What data do see: the changes' sum is as small as the sum's own uncertainty.
    total = first.changes[0] + first.changes[1]
    assert np.abs(total).max() < 0.1 * size


def test_one_law_alone_is_told(two_laws):
    """Changes along all directions make up the law's variance."""
    posterior, a, _, x = two_laws
    found = posterior.trade_offs((a, x), n=15)
    variance = sum(t.changes[0] ** 2 for t in found)
    assert np.allclose(variance, posterior.law(a, x).std ** 2, rtol=1e-6)
    with pytest.raises(ValueError, match="trade_offs: none of the network's weights"):
        posterior.trade_offs((femnn.MLP(1, 3, 1), x))
    with pytest.raises(ValueError, match="n=0"):
        posterior.trade_offs((a, x), n=0)


def test_parameters_by_control(two_laws):
    """What is known of the sum is shared by both."""
    posterior = two_laws[0]
    known = posterior.parameters_by_control()
    assert known.sum() == pytest.approx(posterior.effective_parameters)
    assert known.shape == (2,)
    assert known.min() > 0.2
