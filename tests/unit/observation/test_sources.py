"""Data from pandas, xarray and files of the CF conventions; dates."""

import datetime

import numpy as np
import pytest
from firedrake import *

import femnn

from .support import POINTS

NAMES = list("abcdef")
DATES = np.array(["2020-01-02T00", "2020-01-02T06", "2020-01-04T00"], dtype="datetime64[h]")
HOURS = [24.0, 30.0, 72.0]
VALUES = np.random.default_rng(1).normal(size=(3, 6))
VALUES[1, 2] = np.nan
SHUFFLED = [3, 0, 5, 1, 4, 2]


@pytest.fixture(scope="module")
def stations():
    return femnn.Stations(UnitSquareMesh(2, 2), POINTS, NAMES)


def check(data, values=VALUES, times=HOURS):
    np.testing.assert_array_equal(data.values, values)
    np.testing.assert_allclose(data.times, times)


@pytest.mark.parametrize(
    "dates", [DATES, DATES.astype("datetime64[s]").tolist(), DATES.tolist()], ids=type
)
def test_dates(stations, dates):
    check(femnn.Observations(stations, VALUES, 0.1, dates, origin="2020-01-01", time_unit="h"))
    origin = datetime.datetime(2020, 1, 1)
    data = femnn.Observations(stations, VALUES, 0.1, dates, origin=origin, time_unit="d")
    check(data, times=[1.0, 1.25, 3.0])


def test_wrong_dates(stations):
    with pytest.raises(ValueError, match="origin='2020-01-01', and its unit"):
        femnn.Observations(stations, VALUES, 0.1, DATES)
    with pytest.raises(ValueError, match="origin='soon': wanted a date"):
        femnn.Observations(stations, VALUES, 0.1, DATES, origin="soon")
    with pytest.raises(ValueError, match="time_unit='weeks': wanted one of"):
        femnn.Observations(stations, VALUES, 0.1, DATES, origin="2020-01-01", time_unit="weeks")
    with pytest.raises(ValueError, match="but the times are numbers"):
        femnn.Observations(stations, VALUES, 0.1, HOURS, origin="2020-01-01")


def test_pandas_tables(stations):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(VALUES, index=DATES, columns=NAMES).iloc[:, SHUFFLED]
    table["other"] = 1.0
    table.attrs["units"] = "m"
    std = pandas.Series(np.arange(1.0, 7.0), index=NAMES).iloc[SHUFFLED]
    data = femnn.Observations(stations, table, std, origin="2020-01-01", time_unit="h")
    check(data)
    assert data.units == "m"
    np.testing.assert_array_equal(data.std[0], np.arange(1.0, 7.0))
    assert np.isnan(data.std[1, 2])
    numbers = table.set_axis(HOURS, axis=0)
    check(femnn.Observations(stations, numbers, 0.1))
    with pytest.raises(ValueError, match="the table's columns have no 'a', only 'd', 'x'"):
        femnn.Observations(stations, numbers.rename(columns={"a": "x"}), 0.1)
    with pytest.raises(ValueError, match="more than once in the table's columns"):
        femnn.Observations(stations, numbers.rename(columns={"a": "b"}), 0.1)


def test_pandas_series_and_points():
    pandas = pytest.importorskip("pandas")
    points = pandas.DataFrame(POINTS, index=NAMES, columns=["x", "y"])
    stations = femnn.Stations(UnitSquareMesh(2, 2), points)
    assert stations.names == tuple(NAMES)
    np.testing.assert_array_equal(stations.points, POINTS)
    assert femnn.Stations(UnitSquareMesh(2, 2), points.reset_index(drop=True)).names[0] == "0"
    series = pandas.Series(VALUES[1], index=NAMES, name="head").iloc[SHUFFLED]
    data = femnn.Observations(stations, series, 0.1)
    np.testing.assert_array_equal(data.values, VALUES[1])
    assert data.name == "head"


def test_xarray(stations):
    xarray = pytest.importorskip("xarray")
    array = xarray.DataArray(
        VALUES.T[SHUFFLED],
        dims=("site", "time"),
        coords={"site": [NAMES[i] for i in SHUFFLED], "time": DATES},
        attrs={"units": "m", "long_name": "hydraulic head"},
    )
    options = {"origin": "2020-01-01", "time_unit": "h"}
    data = femnn.Observations(stations, array, abs(array) + 1, **options)
    check(data)
    np.testing.assert_array_equal(data.std, np.abs(VALUES) + 1)
    assert (data.units, data.name) == ("m", "hydraulic head")
    named = array.assign_coords(well=("site", array.site.values)).drop_vars("site")
    check(femnn.Observations(stations, named, 0.1, **options))
    with pytest.raises(ValueError, match=r"no dimension of .* has the names 'a', 'b'"):
        femnn.Observations(stations, array.drop_vars("site").rename(site="q"), 0.1, **options)
    steady = femnn.Observations(stations, array.isel(time=0, drop=True), 0.1)
    np.testing.assert_array_equal(steady.values, VALUES[0])


def test_xarray_of_vectors(stations):
    xarray = pytest.importorskip("xarray")
    values = np.random.default_rng(0).normal(size=(2, 3, 6))
    array = xarray.DataArray(
        values, dims=("component", "time", "station"), coords={"station": NAMES, "time": HOURS}
    )
    check(femnn.Observations(stations, array, 0.1), values=np.moveaxis(values, 0, -1))
