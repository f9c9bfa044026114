"""Data that pandas and xarray hold, as arrays in the order of the places.

Nothing is imported: what these libraries give is known by what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from femnn.observation.observable import listed


@dataclass(frozen=True)
class Source:
    """Data as arrays.

    Attributes
    ----------
    values : array_like
        In the order of the places, with times in rows where there are any.
    times : array_like or None
        The times, where the data have them.
    units, name : str
        The unit, and what was measured; empty where it is not known.
    """

    values: Any
    times: Any = None
    units: str = ""
    name: str = ""


def source_of(names: Sequence[str], data: Any) -> Source:
    """Data of places by their names: those of a table's columns, or of a coordinate.

    Places that are not asked for are left out; other data are taken as they are.

    Raises
    ------
    ValueError
        If there are no data of a place.
    """
    if hasattr(data, "dims") and hasattr(data, "coords"):
        return _of_xarray(names, data)
    index = getattr(data, "index", None)
    if index is None or callable(index) or not hasattr(data, "to_numpy"):
        return Source(data)
    if hasattr(data, "columns"):
        columns = places(names, data.columns, "the table's columns")
        attrs = getattr(data, "attrs", {})
        times = np.asarray(index)
        return Source(data.to_numpy(float)[:, columns], times, str(attrs.get("units", "")))
    rows = places(names, index, "the index")
    return Source(data.to_numpy(float)[rows], name=str(data.name or ""))


def _of_xarray(names: Sequence[str], data: Any) -> Source:
    station = _station_dimension(names, data)
    others = [d for d in data.dims if d != station]
    time = next((d for d in others if d in data.coords and _is_time(d, data.coords[d])), None)
    order = [d for d in (time, station) if d is not None]
    array = data.transpose(*order, *(d for d in others if d != time))
    values, axis = np.asarray(array.values, dtype=float), order.index(station)
    given = _labels(data, station)
    if given is not None:
        values = np.take(values, places(names, given, f"the coordinate of {station!r}"), axis)
    times = None if time is None else np.asarray(data.coords[time].values)
    what = data.attrs.get("long_name", data.name or "")
    return Source(values, times, str(data.attrs.get("units", "")), str(what))


def _station_dimension(names: Sequence[str], data: Any) -> Any:
    """The dimension whose labels are the places' names, or that is called so."""
    for dimension in data.dims:
        labels = _labels(data, dimension)
        if labels is not None and set(names) <= set(map(str, labels)):
            return dimension
    for dimension in data.dims:
        if str(dimension) in ("station", "stations", "name", "location", "site"):
            return dimension
    raise ValueError(
        f"Observations: no dimension of {tuple(data.dims)} has the names {listed(names)} as its "
        "coordinate: give it one, as in data.assign_coords(station=names)."
    )


def _labels(data: Any, dimension: Any) -> list | None:
    """The labels along a dimension: of its own coordinate, or of another of text."""
    if dimension in data.coords:
        return data.coords[dimension].values.tolist()
    for coordinate in data.coords.values():
        if coordinate.dims == (dimension,) and coordinate.dtype.kind in "OSU":
            return [_text(label) for label in coordinate.values]
    return None


def _text(label: Any) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)


def _is_time(dimension: Any, coordinate: Any) -> bool:
    return coordinate.dtype.kind == "M" or str(dimension) in ("time", "t")


def places(names: Sequence[str], given: Any, where: str) -> list[int]:
    """Where the names stand among others."""
    known = {_text(name): i for i, name in enumerate(given)}
    if len(known) < len(list(given)):
        raise ValueError(f"Observations: a name stands more than once in {where}.")
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"Observations: {where} have no {listed(missing)}, only {listed(list(known))}: name "
            "the places as the data do, or add what is missing with NaN as its values."
        )
    return [known[name] for name in names]
