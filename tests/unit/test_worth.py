"""What a place's data are worth: against posteriors of the data without it."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn

NAMES = ("west", "middle", "east", "far east")


def posterior(kept=NAMES, correlation=None, loss=None):
    """A linear model seen at four places at five times, of which some places are left out."""
    get_working_tape().clear_tape()
    mesh = UnitIntervalMesh(4)
    V = FunctionSpace(mesh, "CG", 2)
    x, v = SpatialCoordinate(mesh)[0], TestFunction(V)
    u, c = Function(V), Constant([0.3, 0.2, 0.1], name="c")
    times = np.arange(5.0)
    stations = femnn.Stations(mesh, [0.1, 0.4, 0.7, 0.95], NAMES)
    values = np.random.default_rng(2).normal(1, 0.1, (5, 4))
    values[2, 1] = np.nan
    std = [0.1, 0.05, 0.2, 0.1]
    data = femnn.Observations(stations, values, std, times, correlation=correlation, loss=loss)
    left_out = [name for name in NAMES if name not in kept]
    data = data.split(left_out)[0] if left_out else data
    continue_annotation()
    observe = data.start()
    law = c[0] + c[1] * x + c[2] * x**2
    for t in times:
        femnn.solve((u - (1 + 0.1 * t) * law) * v * dx == 0, u)
        observe(u, t)
    J = observe.misfit() + femnn.GaussianPrior(c, 2.0).energy()
    quantity = femnn.assemble(u * dx)
    profile = stations(u)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(c))
    femnn.fit(Jhat, "gauss-newton", progress=False)
    return femnn.laplace(Jhat), quantity, profile


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("correlation", [None, 2.0])
def test_worth_is_what_leaving_out_shows(correlation):
    found, quantity, profile = posterior(correlation=correlation)
    table = found.data_worth(quantity)
    full = float(found.predict(quantity).std)
    of_profile = found.data_worth(profile)
    spread = found.predict(profile).std
    assert of_profile["std alone", "all"] == pytest.approx(np.sqrt((spread**2).mean()), rel=1e-8)
    assert table["std alone", "all"] == pytest.approx(full, rel=1e-8)
    for name in ("west", "middle"):
        others, value, _ = posterior([n for n in NAMES if n != name], correlation)
        without = float(others.predict(value).std)
        assert table["std without", name] == pytest.approx(without, rel=1e-7)
        assert table["worth", name] == pytest.approx(1 - (full / without) ** 2, rel=1e-6)
    only, value, _ = posterior(["east"], correlation)
    assert table["std alone", "east"] == pytest.approx(float(only.predict(value).std), rel=1e-7)
    assert table.rows == [*NAMES, "all"]


def test_a_loss_counts_with_its_weights():
    """With a loss the matrix is of weighted rows; all places together are the posterior."""
    found, quantity, _ = posterior(loss=femnn.StudentT(4))
    table = found.data_worth(quantity)
    full = float(found.predict(quantity).std)
    assert table["std alone", "all"] == pytest.approx(full, rel=1e-8)
    assert (table["std without"] > full).all()


def test_a_quantity_that_is_none():
    found, *_ = posterior()
    with pytest.raises(TypeError, match="data_worth got a float: wanted a recorded number"):
        found.data_worth(3.0)
    with pytest.raises(ValueError, match="no block on the functional's tape computes the value"):
        found.data_worth(AdjFloat(2.0))
