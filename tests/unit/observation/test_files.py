"""netCDF files of the CF conventions: all ways to store time series, classic and netCDF-4."""

import h5py
import numpy as np
import pytest
from firedrake import *
from mpi4py import MPI
from scipy.io import netcdf_file

import femnn

from .support import POINTS

NAMES = ["north", "south", "far"]
TIMES = np.array([0.0, 0.5, 2.0])
VALUES = np.array([[1.0, 2.0, 3.0], [1.5, np.nan, 3.5], [np.nan, 2.5, 4.0]])
FILL = -999.0


class Classic:
    """Writes a classic file."""

    def __init__(self, path):
        self._file = netcdf_file(path, "w")

    def dimension(self, name, size):
        self._file.createDimension(name, size)

    def put(self, name, values, dims, **attrs):
        values = np.asarray(values)
        variable = self._file.createVariable(name, values.dtype.char.replace("S", "c"), dims)
        variable[...] = values
        for key, value in attrs.items():
            setattr(variable, key, value)

    def close(self):
        self._file.close()


class NetCDF4:
    """Writes an HDF5 file as the netCDF library does."""

    def __init__(self, path):
        self._file, self._sizes = h5py.File(path, "w"), {}

    def dimension(self, name, size):
        self._sizes[name] = size

    def put(self, name, values, dims, **attrs):
        data = self._file.create_dataset(name, data=values)
        data.attrs.update({k: np.bytes_(v) if isinstance(v, str) else v for k, v in attrs.items()})
        if dims == (name,):
            data.make_scale(name)
            return
        for i, dim in enumerate(dims):
            if dim not in self._file:
                self._file.create_dataset(dim, data=np.zeros(self._sizes[dim]))
                self._file[dim].make_scale("This is a netCDF dimension but not a netCDF variable.")
            data.dims[i].attach_scale(self._file[dim])

    def close(self):
        self._file.close()


def write_stations(file, dimension="station"):
    file.dimension(dimension, len(NAMES))
    file.dimension("letters", 8)
    letters = np.array([list(name.ljust(8, "\0")) for name in NAMES], dtype="S1")
    file.put("name", letters, (dimension, "letters"), cf_role="timeseries_id")
    file.put("x", POINTS[:3, 0], (dimension,), standard_name="projection_x_coordinate")
    file.put("y", POINTS[:3, 1], (dimension,), axis="Y")


def write_time(file, dims, values=TIMES, name="time"):
    units = "days since 2020-1-2 06:00:00"
    file.put(name, values, dims, standard_name="time", units=units, calendar="standard")


def orthogonal(file, attrs):
    write_stations(file)
    file.dimension("time", len(TIMES))
    write_time(file, ("time",))
    packed = np.where(np.isnan(VALUES.T), FILL, VALUES.T * 10).astype("f4")
    attrs = {**attrs, "scale_factor": 0.1, "ancillary_variables": "head_error"}
    file.put("head", packed, ("station", "time"), **attrs)
    error = np.where(np.isnan(VALUES.T), FILL, 0.5)
    name = "water_table_depth standard_error"
    file.put("head_error", error, ("station", "time"), standard_name=name, missing_value=FILL)


def series():
    """The times and values of each station."""
    present = [~np.isnan(column) for column in VALUES.T]
    return [(TIMES[p], c[p]) for p, c in zip(present, VALUES.T, strict=True)]


def incomplete(file, attrs):
    write_stations(file)
    file.dimension("obs", 3)
    times, values = np.full((3, 3), FILL), np.full((3, 3), FILL)
    for i, (t, v) in enumerate(series()):
        times[i, : len(t)], values[i, : len(v)] = t, v
    units = "days since 2020-01-02T06:00:00Z"
    file.put("t", times, ("station", "obs"), standard_name="time", units=units, _FillValue=FILL)
    file.put("head", values, ("station", "obs"), coordinates="t x y name", **attrs)


def contiguous(file, attrs):
    write_stations(file)
    file.dimension("obs", sum(len(t) for t, _ in series()))
    counts = np.array([len(t) for t, _ in series()], dtype="i4")
    file.put("row_size", counts, ("station",), sample_dimension="obs")
    write_time(file, ("obs",), np.concatenate([t for t, _ in series()]))
    values = np.concatenate([v for _, v in series()])
    file.put("head", values, ("obs",), coordinates="time x y", **attrs)


def indexed(file, attrs):
    write_stations(file)
    station, time = np.nonzero(~np.isnan(VALUES.T))
    order = np.argsort(time, kind="stable")
    station, time = station[order].astype("i4"), time[order]
    file.dimension("obs", len(station))
    file.put("which", station, ("obs",), instance_dimension="station")
    write_time(file, ("obs",), TIMES[time])
    file.put("head", VALUES[time, station], ("obs",), coordinates="time x y", **attrs)


LAYOUTS = {f.__name__: f for f in (orthogonal, incomplete, contiguous, indexed)}
ATTRS = {"units": "m", "long_name": "hydraulic head", "_FillValue": FILL}


def written(folder, layout, kind=Classic):
    """A file that rank 0 has written."""
    path = MPI.COMM_WORLD.bcast(folder) / "data.nc"
    if MPI.COMM_WORLD.rank == 0:
        file = kind(path)
        layout(file, ATTRS)
        file.close()
    MPI.COMM_WORLD.barrier()
    return path


@pytest.fixture(scope="module")
def mesh():
    return UnitSquareMesh(2, 2)


@pytest.mark.parametrize("kind", [Classic, NetCDF4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout(mesh, tmp_path, layout, kind):
    path = written(tmp_path, LAYOUTS[layout], kind)
    stations = femnn.Stations.from_netcdf(mesh, path)
    assert stations.names == tuple(NAMES)
    np.testing.assert_array_equal(stations.points, POINTS[:3])
    std = None if layout == "orthogonal" else 0.5
    data = femnn.Observations.from_netcdf(stations, path, "head", std)
    np.testing.assert_allclose(data.values, VALUES, rtol=1e-6)
    np.testing.assert_array_equal(data.std, np.where(np.isnan(VALUES), np.nan, 0.5))
    np.testing.assert_array_equal(data.times, TIMES)
    assert (data.units, data.name) == ("m", "hydraulic head")


@pytest.mark.parallel([1, 2])
def test_chosen_stations_and_the_models_time(mesh, tmp_path):
    path = written(tmp_path, orthogonal)
    stations = femnn.Stations.from_netcdf(mesh, path, names=["far", "north"])
    data = femnn.Observations.from_netcdf(
        stations, path, "head", origin="2020-01-02", time_unit="h", units="cm"
    )
    np.testing.assert_allclose(data.values, VALUES[:, [2, 0]], rtol=1e-6)
    np.testing.assert_allclose(data.times, 24 * TIMES + 6)
    assert data.units == "cm"
    hours = femnn.Observations.from_netcdf(stations, path, "head", time_unit="h").times
    np.testing.assert_allclose(hours, 24 * TIMES)


def test_a_single_station_and_a_steady_quantity(mesh, tmp_path):
    def single(file, attrs):
        file.dimension("time", 3)
        write_time(file, ("time",))
        file.put("head", VALUES[:, 2], ("time",), **attrs)

    data = femnn.Observations.from_netcdf(
        femnn.Stations(mesh, POINTS[:1]), written(tmp_path, single), "head", 0.1
    )
    np.testing.assert_array_equal(data.values, VALUES[:, 2:])

    def steady(file, attrs):
        write_stations(file)
        file.put("head", VALUES[0], ("station",), **attrs)

    path = written(tmp_path, steady)
    stations = femnn.Stations.from_netcdf(mesh, path, coordinates=["x", "y"])
    data = femnn.Observations.from_netcdf(stations, path, "head", 0.1)
    np.testing.assert_array_equal(data.values, VALUES[0])
    assert data.times is None


def test_what_is_wrong_with_a_file(mesh, tmp_path):
    path = written(tmp_path, orthogonal)
    stations = femnn.Stations.from_netcdf(mesh, path)
    with pytest.raises(ValueError, match="no variable 'level': the file has"):
        femnn.Observations.from_netcdf(stations, path, "level")
    with pytest.raises(ValueError, match="have no 'east', only 'north'"):
        femnn.Stations.from_netcdf(mesh, path, names=["east"])
    with pytest.raises(ValueError, match=r"dimensions \('station',\), wanted those of head"):
        femnn.Observations.from_netcdf(stations, path, "head", "x")
    with pytest.raises(ValueError, match="wanted the names of 2 variables"):
        femnn.Stations.from_netcdf(mesh, path, coordinates=["x"])
    with pytest.raises(FileNotFoundError):
        femnn.Observations.from_netcdf(stations, tmp_path / "none.nc", "head")
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(ValueError, match="is no netCDF file: read it with pandas"):
        femnn.Observations.from_netcdf(stations, tmp_path / "table.csv", "head")


def test_what_is_wrong_with_a_layout(mesh, tmp_path):
    stations = femnn.Stations(mesh, POINTS[:3], NAMES)

    def grid(file, attrs):
        for name in ("time", "lat", "lon"):
            file.dimension(name, 3)
        write_time(file, ("time",))
        file.put("head", np.zeros((3, 3, 3)), ("time", "lat", "lon"), **attrs)

    with pytest.raises(ValueError, match="not those of time series at stations"):
        femnn.Observations.from_netcdf(stations, written(tmp_path, grid), "head", 0.1)

    def doubled(file, attrs):
        write_stations(file)
        file.dimension("obs", 2)
        file.put("which", np.array([1, 1], "i4"), ("obs",), instance_dimension="station")
        write_time(file, ("obs",), np.array([2.0, 2.0]))
        file.put("head", np.array([1.0, 2.0]), ("obs",), coordinates="time", **attrs)

    with pytest.raises(ValueError, match="several values at one time"):
        femnn.Observations.from_netcdf(stations, written(tmp_path, doubled), "head", 0.1)

    def months(file, attrs):
        write_stations(file)
        file.dimension("time", 3)
        file.put("time", TIMES, ("time",), units="months since 2020-01-01", axis="T")
        file.put("head", VALUES, ("time", "station"), **attrs)

    path = written(tmp_path, months)
    assert femnn.Observations.from_netcdf(stations, path, "head", 0.1).times[1] == 0.5
    with pytest.raises(ValueError, match="time_unit='months': wanted one of"):
        femnn.Observations.from_netcdf(stations, path, "head", 0.1, origin="2020-01-01")


def test_a_file_of_xarrays(mesh, tmp_path):
    """Dates, text and gaps as xarray encodes them; and back again."""
    xarray = pytest.importorskip("xarray")
    dates = np.array(["2020-01-02T06", "2020-01-02T18", "2020-01-04T06"], "datetime64[ns]")
    dataset = xarray.Dataset(
        {"head": (("time", "station"), VALUES, {"units": "m", "long_name": "hydraulic head"})},
        {
            "time": dates,
            "name": ("station", NAMES, {"cf_role": "timeseries_id"}),
            "x": ("station", POINTS[:3, 0], {"axis": "X"}),
            "y": ("station", POINTS[:3, 1], {"axis": "Y"}),
        },
    )
    path = tmp_path / "data.nc"
    dataset.to_netcdf(path, engine="scipy")
    stations = femnn.Stations.from_netcdf(mesh, path)
    options = {"origin": "2020-01-02", "time_unit": "d"}
    data = femnn.Observations.from_netcdf(stations, path, "head", 0.1, **options)
    np.testing.assert_array_equal(data.values, VALUES)
    np.testing.assert_allclose(data.times, 0.25 + TIMES)
    with xarray.open_dataset(path) as decoded:
        same = femnn.Observations(stations, decoded["head"].load(), 0.1, **options)
    np.testing.assert_array_equal(same.values, data.values)
    np.testing.assert_allclose(same.times, data.times)
    assert (same.units, same.name) == (data.units, data.name)
