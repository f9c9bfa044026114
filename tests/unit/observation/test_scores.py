"""Held-out data and scores."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from firedrake import *

import femnn
from femnn.observation.scores import coverage, crps, kge, nse

from .support import POINTS

N = len(POINTS)
TIMES = np.arange(6.0)
NAMES = list("abcdef")
RNG = np.random.default_rng(0)
VALUES = RNG.normal(3, 1, (len(TIMES), N))
VALUES[2, 1] = VALUES[:, 4] = np.nan
MODEL = VALUES + RNG.normal(0.1, 0.5, VALUES.shape)


@pytest.fixture(scope="module")
def stations():
    return femnn.Stations(UnitSquareMesh(2, 2), POINTS, NAMES)


@pytest.fixture(scope="module")
def data(stations):
    return femnn.Observations(stations, VALUES, 0.5, TIMES, units="m", name="head")


def test_table(data):
    """Against the definitions; a place without data has no row."""
    table = data.scores(MODEL)
    assert table.rows == ["a", "b", "c", "d", "f", "all"]
    assert list(table) == ["n", "rmse", "bias", "nse", "kge"]
    assert table["n"].tolist() == [6, 5, 6, 6, 6, 29]
    seen = ~np.isnan(VALUES)
    y, m = VALUES[seen[:, 1], 1], MODEL[seen[:, 1], 1]
    assert table["rmse", "b"] == pytest.approx(np.sqrt(np.mean((m - y) ** 2)))
    assert table["bias", "b"] == pytest.approx(np.mean(m - y))
    assert table["nse", "b"] == pytest.approx(1 - np.mean((m - y) ** 2) / np.var(y))
    r, alpha, beta = np.corrcoef(m, y)[0, 1], m.std() / y.std(), m.mean() / y.mean()
    expected = 1 - np.sqrt((r - 1) ** 2 + (alpha - 1) ** 2 + (beta - 1) ** 2)
    assert table["kge", "b"] == pytest.approx(expected)
    assert table["rmse", "all"] == pytest.approx(np.sqrt(np.nanmean((MODEL - VALUES) ** 2)))
    squares = np.nansum((MODEL - VALUES) ** 2)
    spread = np.nansum((VALUES - np.nansum(VALUES, 0) / np.maximum(seen.sum(0), 1)) ** 2)
    assert table["nse", "all"] == pytest.approx(1 - squares / spread)
    assert np.isnan(table["kge", "all"])


def test_table_as_text(data):
    lines = str(data.scores(MODEL)).splitlines()
    assert lines[0].split() == ["head", "n", "rmse", "[m]", "bias", "[m]", "nse", "kge"]
    assert lines[-1].split()[:2] == ["all", "29"]
    assert lines[-1].endswith("-")
    with pytest.raises(KeyError, match="there is no column 'mae'"):
        data.scores(MODEL)["mae"]
    with pytest.raises(KeyError, match="there is no row 'e'"):
        data.scores(MODEL)["rmse", "e"]


def test_steady_data(stations):
    values = VALUES.mean(0)
    data = femnn.Observations(stations, values, 0.5)
    table = data.scores(data.at(Constant(3.0)))
    assert table["bias", "all"] == pytest.approx(3 - np.nanmean(values))
    assert np.isnan(table["nse", "a"])
    assert table["nse", "all"] < 0
    seen = values[~np.isnan(values)]
    perfect = data.scores(values)
    assert perfect["nse", "all"] == 1
    assert perfect["kge", "all"] == pytest.approx(1)
    assert len(seen) == perfect["n", "all"]


def test_components_of_vectors(stations):
    values = RNG.normal(size=(N, 2))
    table = femnn.Observations(stations, values, 0.1).scores(values + 1)
    assert table.rows[:3] == ["a[0]", "a[1]", "b[0]"]
    assert table["bias", "c[1]"] == pytest.approx(1)


def test_scores_without_sense_are_missing():
    constant, moving = np.full(5, 2.0), np.arange(5.0)
    assert np.isnan(nse(moving, constant))
    assert np.isnan(kge(moving, constant))
    assert np.isnan(kge(constant, moving))
    assert np.isnan(kge(moving, moving - 2))
    assert np.isnan(nse(moving[:2], moving[:2]))


def test_crps_is_the_integral_over_the_distribution():
    samples, std, y = np.array([[0.2], [1.5], [1.7]]), np.array([0.3]), np.array([0.9])

    def integrand(x):
        below = scipy.stats.norm(samples[:, 0], std[0]).cdf(x).mean()
        return (below - (x >= y[0])) ** 2

    expected = scipy.integrate.quad(integrand, -5, 8, points=[0.9], limit=200)[0]
    assert crps(samples, std, y)[0] == pytest.approx(expected, rel=1e-6)


def test_crps_in_pieces(monkeypatch):
    samples, std, y = RNG.normal(size=(7, 9)), RNG.uniform(0.1, 1, 9), RNG.normal(size=9)
    whole = crps(samples, std, y)
    monkeypatch.setattr("femnn.observation.scores.PAIRS", 100)
    np.testing.assert_allclose(crps(samples, std, y), whole)


def test_coverage_of_what_is_drawn_from_the_prediction(stations):
    """Of the model with its std, and of samples: as often as it should be."""
    times, rng = np.arange(2000.0), np.random.default_rng(3)
    model = rng.normal(size=(len(times), N))
    values = model + rng.normal(0, np.hypot(0.5, 0.3), model.shape)
    data = femnn.Observations(stations, values, 0.5, times)
    by_std = data.scores(model, std=0.3, level=0.8)
    assert by_std["coverage of 80%", "all"] == pytest.approx(0.8, abs=0.01)
    samples = model + rng.normal(0, 0.3, (60, 1, 1))
    by_samples = data.scores(model, samples=samples)
    assert by_samples["coverage of 90%", "all"] == pytest.approx(0.9, abs=0.02)
    assert by_samples["crps", "all"] == pytest.approx(by_std["crps", "all"], rel=0.02)
    assert coverage(samples[:, 0], np.full(N, 0.5), values[0], 0.999).all()


@pytest.mark.parametrize(
    ("held", "rows"),
    [
        (["b", "f"], {"columns": [1, 5]}),
        ("b", {"columns": [1]}),
        (slice(2, 3.5), {"rows": [2, 3]}),
        (slice(4, None), {"rows": [4, 5]}),
        ([0.0, 5.0], {"rows": [0, 5]}),
    ],
)
def test_split(data, held, rows):
    mask = np.zeros(VALUES.shape, bool)
    mask[rows.get("rows", slice(None)), :] = "rows" in rows
    mask[:, rows.get("columns", [])] = True
    kept, out = data.split(held)
    np.testing.assert_array_equal(kept.values, np.where(mask, np.nan, VALUES))
    np.testing.assert_array_equal(out.values, np.where(mask, VALUES, np.nan))
    assert (out.units, out.name, out.at) == ("m", "head", data.at)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (["b", "x"], "there is no 'x': the names are 'a', 'b'"),
        ([0.5], "no data at t = 0.5"),
        (NAMES, "no values left"),
        (["e"], "no values to hold out"),
        ([], "no values to hold out"),
        (slice(10, 12), "no values to hold out"),
    ],
)
def test_wrong_splits(data, held, message):
    with pytest.raises(ValueError, match=message):
        data.split(held)


def test_wrong_models(stations, data):
    with pytest.raises(ValueError, match=r"shape \(6,\): wanted \(6, 6\)"):
        data.scores(MODEL[0])
    with pytest.raises(ValueError, match=r"samples of shape \(6, 6\): wanted .*\(6, 6\)"):
        data.scores(MODEL, samples=MODEL)
    with pytest.raises(ValueError, match="NaN at a, t = 1, where there is a datum"):
        data.scores(np.where(TIMES[:, None] == 1, np.nan, MODEL))
    with pytest.raises(ValueError, match="wanted a probability"):
        data.scores(MODEL, level=90)
    with pytest.raises(ValueError, match="the data have no times"):
        femnn.Observations(stations, VALUES[0], 0.5).split(slice(0, 1))


def test_a_table_for_pandas(data):
    pandas = pytest.importorskip("pandas")
    frame = data.scores(MODEL).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc["all", "n"] == 29
    assert frame.attrs["units"] == {"rmse": "m", "bias": "m"}
