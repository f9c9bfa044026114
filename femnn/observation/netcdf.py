"""netCDF files as variables with names of dimensions and attributes.

Classic files are read by scipy; netCDF-4 files are HDF5 files, whose dimensions h5py knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from femnn.observation.optional import imported


@dataclass(frozen=True)
class Variable:
    """A variable of a file.

    Attributes
    ----------
    values : numpy.ndarray
        Numbers as float64 in their units, NaN where they are missing, or text.
    dims : tuple of str
        Names of its dimensions.
    attrs : dict
        Attributes.
    """

    values: np.ndarray
    dims: tuple[str, ...]
    attrs: dict[str, Any]


def read(path: str | Path) -> dict[str, Variable]:
    """The variables of a file by their names.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no netCDF file.
    """
    with Path(path).open("rb") as file:
        magic = file.read(4)
    if magic[:3] == b"CDF":
        return _classic(str(path))
    if magic == b"\x89HDF":
        return _netcdf4(str(path))
    raise ValueError(
        f"{path} is no netCDF file: read it with pandas or xarray, and give Observations the table "
        "or array."
    )


def _classic(path: str) -> dict[str, Variable]:
    from scipy.io import netcdf_file

    with netcdf_file(path, mmap=False) as file:
        return {
            name: _variable(np.array(v.data), v.dimensions, v._attributes)
            for name, v in file.variables.items()
        }


def _netcdf4(path: str) -> dict[str, Variable]:
    h5py = imported("h5py", f"reading {path}")
    found = {}
    with h5py.File(path, "r") as file:
        for name, data in file.items():
            if isinstance(data, h5py.Dataset) and not _is_bare_dimension(data):
                found[name] = _variable(data[()], _dimensions(name, data), dict(data.attrs))
    return found


def _is_bare_dimension(data: Any) -> bool:
    name = data.attrs.get("NAME", b"")
    return _text(name).startswith("This is a netCDF dimension but not a netCDF variable")


def _dimensions(name: str, data: Any) -> tuple[str, ...]:
    if data.is_scale:
        return (name,) * data.ndim
    return tuple(d[0].name.strip("/") if len(d) else f"{name} {i}" for i, d in enumerate(data.dims))


def _variable(values: Any, dims: tuple[str, ...], attrs: dict[str, Any]) -> Variable:
    """A variable with its numbers unpacked, its characters joined."""
    attrs = {name: _plain(value) for name, value in attrs.items()}
    array = np.asarray(values)
    if array.dtype.kind in "SUO":
        if array.dtype == "S1" and array.ndim:
            return Variable(_joined(array), tuple(dims[:-1]), attrs)
        texts = np.array([_text(label) for label in array.flat], dtype=object)
        return Variable(texts.reshape(array.shape), tuple(dims), attrs)
    numbers = array.astype(float)
    for key in ("_FillValue", "missing_value"):
        if key in attrs:
            numbers[np.isin(array, attrs[key])] = np.nan
    numbers = numbers * attrs.get("scale_factor", 1.0) + attrs.get("add_offset", 0.0)
    return Variable(numbers, tuple(dims), attrs)


def _joined(characters: np.ndarray) -> np.ndarray:
    rows = characters.reshape(-1, characters.shape[-1])
    texts = [b"".join(row).split(b"\0")[0].decode().strip() for row in rows]
    return np.array(texts, dtype=object).reshape(characters.shape[:-1])


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, np.bytes_)):
        return _text(value)
    if isinstance(value, np.ndarray) and value.size == 1:
        return _plain(value.flat[0])
    return value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
