"""Time series at stations in files that follow the CF conventions (discrete sampling geometries).

All four ways to store them are read: one axis of times for all stations, one for each, and ragged
arrays, contiguous or with an index.  What is missing stays missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from femnn.observation.netcdf import Variable
from femnn.observation.observable import listed
from femnn.observation.times import as_date, seconds_in

File = Mapping[str, Variable]

AXES = (
    ("X", ("projection_x_coordinate", "longitude", "grid_longitude")),
    ("Y", ("projection_y_coordinate", "latitude", "grid_latitude")),
    ("Z", ("altitude", "height", "depth")),
)
SINCE = re.compile(
    r"(?P<unit>\w+) since (?P<year>\d{1,4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})"
    r"(?:[T ](?P<hour>\d{1,2}):(?P<minute>\d{1,2})(?::(?P<second>\d{1,2}(?:\.\d*)?))?)?"
    r" ?(?:Z|UTC|[+-]?0{1,2}(?::?00)?)?"
)


@dataclass(frozen=True)
class TimeSeries:
    """A quantity at stations.

    Attributes
    ----------
    values, std : numpy.ndarray
        Shape ``(n_times, n_stations)``, ``(n_stations,)`` without times; ``std`` may be ``None``.
    times : numpy.ndarray or None
        Numbers, shape ``(n_times,)``.
    names : list of str
        The stations' names.
    units, name : str
        The quantity's.
    """

    values: np.ndarray
    std: np.ndarray | None
    times: np.ndarray | None
    names: list[str]
    units: str
    name: str


def time_series(
    file: File, variable: str, std: str | None, origin: Any, time_unit: str | None
) -> TimeSeries:
    """A variable of a file.

    Parameters
    ----------
    file
        Its variables.
    variable
        The quantity.
    std
        The variable with the errors' standard deviation; by default the one that is an ancillary
        variable with a standard name that ends with ``standard_error``.
    origin, time_unit
        The date at which the model's time is zero, and its unit; those of the file by default.
    """
    data, known = _known(file, variable), _Layout(file, variable)
    std = std or _standard_error(file, data)
    errors = None if std is None else _known(file, std)
    if errors is not None and errors.dims != data.dims:
        raise ValueError(
            f"{std} has the dimensions {errors.dims}, wanted those of {variable}: {data.dims}."
        )
    title = str(data.attrs.get("long_name", data.attrs.get("standard_name", variable)))
    arrays = [known.arranged(v.values) for v in (data, errors) if v is not None]
    times = known.times
    if times is not None and (origin is not None or time_unit is not None):
        times = _converted(times, known.time, origin, time_unit)
    units = str(data.attrs.get("units", ""))
    error_array = arrays[1] if len(arrays) > 1 else None
    return TimeSeries(arrays[0], error_array, times, known.names, units, title)


def stations_in(
    file: File, coordinates: Sequence[str] | None, n: int
) -> tuple[list[str], np.ndarray]:
    """Names and coordinates, shape ``(n_stations, n)``, of the stations in a file."""
    identity = _identity(file)
    if identity is None:
        raise ValueError(
            "the file has no variable with cf_role = timeseries_id, which names the stations."
        )
    names = [str(name) for name in np.atleast_1d(file[identity].values)]
    axes = coordinates or [_axis(file, i) for i in range(n)]
    if len(axes) != n:
        raise ValueError(f"got coordinates={axes!r}: wanted the names of {n} variables.")
    columns = [np.broadcast_to(_known(file, axis).values, (len(names),)) for axis in axes]
    return names, np.column_stack(columns)


class _Layout:
    """How the series are stored: the station and the time of each number."""

    def __init__(self, file: File, variable: str):
        data = file[variable]
        self._variable = variable
        identity = _identity(file)
        of_stations = file[identity].dims if identity else ()
        self._time_name = _time_of(file, data)
        self.time = file.get(self._time_name or "")
        stations, times = self._places(file, data, of_stations)
        n = int(stations.max()) + 1 if stations.size else 0
        given = None if identity is None else np.atleast_1d(file[identity].values)
        self.names = [str(i) for i in range(n)] if given is None else [str(g) for g in given]
        self._stations = stations
        self.times, self._rows = None, np.zeros(stations.shape, int)
        if times is not None:
            known = ~np.isnan(times)
            self.times, rows = np.unique(times[known], return_inverse=True)
            self._rows[known] = rows
            self._rows[~known] = -1

    def arranged(self, values: np.ndarray) -> np.ndarray:
        """Numbers by time and station."""
        n_rows = 1 if self.times is None else len(self.times)
        table = np.full((n_rows, len(self.names)), np.nan)
        seen = (self._rows >= 0) & ~np.isnan(values)
        places = self._rows[seen], self._stations[seen]
        if len(np.unique(np.ravel_multi_index(places, table.shape))) < seen.sum():
            raise ValueError(
                f"{self._variable}: a station has several values at one time: keep one of them."
            )
        table[places] = values[seen]
        return table[0] if self.times is None else table

    def _places(
        self, file: File, data: Variable, of_stations: tuple[str, ...]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Station and time of each number, of the shape of the data."""
        if self.time is None:
            self._check(data.dims == of_stations, data)
            return np.arange(data.values.size), None
        if len(data.dims) == 1:
            return self._ragged_or_single(file, data), self.time.values
        others = of_stations or tuple(d for d in data.dims if d not in self.time.dims)
        self._check(len(data.dims) == 2 and len(others) == 1 and others[0] in data.dims, data)
        axis = data.dims.index(others[0])
        numbers = np.arange(data.values.shape[axis])
        stations = numbers[:, None] if axis == 0 else numbers[None, :]
        times = self.time.values
        if self.time.dims != data.dims:
            times = times[None, :] if axis == 0 else times[:, None]
        shape = data.values.shape
        return np.broadcast_to(stations, shape), np.broadcast_to(times, shape)

    def _ragged_or_single(self, file: File, data: Variable) -> np.ndarray:
        (sample,) = data.dims
        for variable in file.values():
            if variable.attrs.get("sample_dimension") == sample:
                counts = variable.values.astype(int)
                return np.repeat(np.arange(len(counts)), counts)
            if "instance_dimension" in variable.attrs and variable.dims == data.dims:
                return variable.values.astype(int)
        return np.zeros(data.values.shape, int)

    def _check(self, is_known: bool, data: Variable) -> None:
        if not is_known:
            raise ValueError(
                f"{self._variable} has the dimensions {data.dims}, which are not those of time "
                "series at stations (CF conventions, featureType timeSeries): read it with xarray, "
                "and give Observations an array with the dimensions time and station."
            )


def _known(file: File, name: str) -> Variable:
    if name not in file:
        raise ValueError(f"there is no variable {name!r}: the file has {listed(list(file), 20)}.")
    return file[name]


def _identity(file: File) -> str | None:
    roles = (n for n, v in file.items() if v.attrs.get("cf_role") == "timeseries_id")
    return next(roles, None)


def _time_of(file: File, data: Variable) -> str | None:
    """The name of the variable with the times of the data."""
    named = [*str(data.attrs.get("coordinates", "")).split(), *data.dims]
    for name in (n for n in named if n in file):
        attrs = file[name].attrs
        is_time = attrs.get("standard_name") == "time" or attrs.get("axis") == "T"
        if is_time or " since " in str(attrs.get("units", "")):
            return name
    return None


def _standard_error(file: File, data: Variable) -> str | None:
    for name in str(data.attrs.get("ancillary_variables", "")).split():
        if str(_known(file, name).attrs.get("standard_name", "")).endswith("standard_error"):
            return name
    return None


def _axis(file: File, i: int) -> str:
    axis, standard = AXES[i]
    for name, variable in file.items():
        if variable.attrs.get("axis") == axis or variable.attrs.get("standard_name") in standard:
            return name
    raise ValueError(
        f"no variable of the file is an axis {axis} or has one of the standard names {standard}: "
        "name the variables with the coordinates, as in coordinates=('x', 'y')."
    )


def _converted(
    times: np.ndarray, variable: Variable | None, origin: Any, unit: str | None
) -> np.ndarray:
    """Times in another unit since another date."""
    assert variable is not None
    text = str(variable.attrs.get("units", ""))
    found = SINCE.fullmatch(text.strip())
    calendar = variable.attrs.get("calendar", "standard")
    if found is None or calendar not in ("standard", "gregorian", "proleptic_gregorian"):
        raise ValueError(
            f"the times are in {text!r}, calendar {calendar!r}, which cannot be converted: leave "
            "out origin and time_unit, which keeps the file's numbers, or decode them with xarray."
        )
    own = seconds_in(found["unit"])
    wanted = own if unit is None else seconds_in(unit)
    start = 0.0
    if origin is not None:
        start = float((_date(found) - as_date(origin)) / np.timedelta64(1, "s"))
    return (start + own * times) / wanted


def _date(found: re.Match) -> np.datetime64:
    numbers = [int(found[key] or 0) for key in ("year", "month", "day", "hour", "minute")]
    date = np.datetime64("{:04d}-{:02d}-{:02d}T{:02d}:{:02d}".format(*numbers), "ns")
    return date + np.timedelta64(round(1e9 * float(found["second"] or 0)), "ns")
