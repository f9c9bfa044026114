"""Stations: points at which a model is observed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint.tape import annotate_tape, get_working_tape, no_annotations, stop_annotating

from femnn.fields.copies import CoordinateState
from femnn.fields.interpolation import Interpolated
from femnn.observation.cf import stations_in
from femnn.observation.netcdf import read
from femnn.observation.observable import (
    Observable,
    as_expression,
    check_same_on_ranks,
    checked_names,
    listed,
)
from femnn.observation.points import PointOrder, PointValues, ValuesBlock
from femnn.observation.sources import places
from femnn.parallel import any_rank, on_rank_zero, range_over_ranks
from femnn.tape.vector import Vector


class Stations(Observable):
    """Points at which a model is observed: wells, thermometers, gauges.

    ``stations(u)`` is the vector of the values of ``u`` at the points, in the order in which they
    were given and the same on every rank, however the mesh is distributed.  It is recorded, with
    its gradient, tangent-linear model and Hessian action.

    Parameters
    ----------
    mesh
        The mesh.
    points
        Coordinates in the mesh's unit, shape ``(n, dimension)``; ``(n,)`` in one dimension.  The
        same on every rank.  The index of a pandas table gives the names.
    names
        One for each point; ``"0"``, ``"1"``, ... by default.

    Attributes
    ----------
    mesh : firedrake.MeshGeometry
        The mesh.
    points : numpy.ndarray
        The coordinates, shape ``(n, dimension)``.
    names : tuple of str
        The names.

    Raises
    ------
    RuntimeError
        If the points differ between ranks.
    ValueError
        If the points have another shape or are not finite, one is outside the mesh, a name stands
        twice, or without names a point.

    Notes
    -----
    The points are found once and stay in their cells.  What jumps between cells, such as the
    gradient of a continuous field, has at a point on a facet the value of one of them, which may
    be another on another number of ranks.

    References
    ----------
    R. W. Nixon-Hill, D. Shapero, C. J. Cotter, D. A. Ham: Consistent point data assimilation in
    Firedrake and Icepack, Geosci. Model Dev. 17 (2024).

    Examples
    --------
    >>> wells = Stations(mesh, [[0.2, 0.3], [0.7, 0.5]], names=["north", "south"])
    >>> wells(u)
    """

    @no_annotations
    def __init__(self, mesh: Any, points: Any, names: Iterable[Any] | None = None):
        self.mesh, self.comm = mesh, mesh.comm
        if names is None:
            names = _index_of(points)
        self.points = _checked_points(mesh, points)
        default = range(len(self.points))
        self.names = checked_names("Stations", default if names is None else names, len(default))
        check_same_on_ranks("Stations", self.comm, "points or names", self.points, self.names)
        if names is None:
            self._check_doubled()
        vertices = fd.VertexOnlyMesh(mesh, self.points, missing_points_behaviour="ignore")
        self._order = PointOrder(vertices, len(self.points))
        self._check_inside()
        self._moved = CoordinateState(mesh)
        self._where = self._moved()
        self._spaces: dict[tuple[int, ...], Any] = {}
        self._kept: weakref.WeakValueDictionary[Any, PointValues] = weakref.WeakValueDictionary()
        self._last: PointValues | None = None

    @classmethod
    def along(
        cls, mesh: Any, start: Sequence[float], end: Sequence[float], n: int, name: str = "profile"
    ) -> Stations:
        """Stations along a line: a profile, as of a borehole or a transect.  Collective.

        Parameters
        ----------
        mesh
            The mesh.
        start, end
            The line's ends, shape ``(dimension,)``, which belong to it.
        n
            Number of points, at equal distances.
        name
            The stations are called ``name 0``, ``name 1``, ...

        Returns
        -------
        Stations
            In the line's order.

        Raises
        ------
        ValueError
            If there are fewer than two points, or one is outside the mesh.
        """
        if int(n) != n or n < 2:
            raise ValueError(f"Stations.along got n={n!r}: wanted a whole number of at least 2.")
        points = np.linspace(np.atleast_1d(start), np.atleast_1d(end), int(n))
        return cls(mesh, points, [f"{name} {i}" for i in range(int(n))])

    @classmethod
    def from_netcdf(
        cls,
        mesh: Any,
        path: str | Path,
        names: Iterable[Any] | None = None,
        coordinates: Sequence[str] | None = None,
    ) -> Stations:
        """The stations of a netCDF file of the CF conventions.  Collective; rank 0 reads.

        Parameters
        ----------
        mesh
            The mesh, in the coordinates of the file.
        path
            A netCDF file, classic or netCDF-4, with ``featureType = "timeSeries"``.
        names
            Those that are wanted, in this order; all by default.
        coordinates
            The variables with the coordinates; by default those of the axes X, Y and Z.

        Returns
        -------
        Stations
            With the file's names.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no netCDF file, a name or a variable is not there, or a point is outside the
            mesh.
        """
        n = mesh.geometric_dimension
        found, points = on_rank_zero(mesh.comm, lambda: stations_in(read(path), coordinates, n))
        names = found if names is None else [str(name) for name in names]
        return cls(mesh, points[places(names, found, f"the stations of {path}")], names)

    def __call__(self, u: Any) -> Vector:
        """The values of a field or an expression at the stations; recorded.  Collective.

        Parameters
        ----------
        u
            A Function or an expression of Functions, Constants and neural coefficients at nodes,
            of any shape.

        Returns
        -------
        Vector
            Shape ``(n, ...)`` in the stations' order, the same on every rank; ``numpy.asarray``
            gives the numbers.

        Raises
        ------
        NotImplementedError
            If a coefficient has its values at quadrature points only.
        RuntimeError
            If the mesh has moved since the stations were made.
        TypeError
            If ``u`` is no expression.
        """
        if any_rank(self.comm, self._moved() != self._where):
            raise RuntimeError(
                "Stations: the mesh has moved since they were made, and so have the points: make "
                "the stations anew."
            )
        values = self._values_of(as_expression("Stations", u))
        with stop_annotating():
            result = values.result(values.given.load({}))
        if annotate_tape() and values.given.dependencies:
            block = ValuesBlock(values)
            get_working_tape().add_block(block)
            block.add_output(result.create_block_variable())
        return result

    def __repr__(self) -> str:
        return f"Stations({len(self)} points: {listed(self.names, 3)})"

    def _values_of(self, expression: Any) -> PointValues:
        """Kept as long as a block on a tape, or nothing newer, uses it."""
        values = self._kept.get(expression)
        if values is None:
            space = self._space(expression.ufl_shape)
            values = PointValues(Interpolated(expression, space), self._order)
            self._kept[expression] = values
        self._last = values
        return values

    def _space(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._spaces:
            self._spaces[shape] = self._order.space(shape)
        return self._spaces[shape]

    def _check_doubled(self) -> None:
        _, first, counts = np.unique(self.points, axis=0, return_index=True, return_counts=True)
        for i in first[counts > 1]:
            same = np.flatnonzero((self.points == self.points[i]).all(1))
            raise ValueError(
                f"Stations: points {same.tolist()} are the same, {self.points[i].tolist()}: leave "
                "one out, or give them names if they are several instruments at one place."
            )

    def _check_inside(self) -> None:
        outside = np.flatnonzero(~self._order.found)
        if not len(outside):
            return
        x = self.mesh.coordinates.dat.data_ro.reshape(-1, self.points.shape[1])
        box = " x ".join(f"[{a:g}, {b:g}]" for a, b in range_over_ranks(self.comm, x))
        which = [f"{self.names[i]} at {self.points[i].tolist()}" for i in outside]
        raise ValueError(
            f"Stations: {listed(which)} lie outside the mesh, which is within {box}: look for "
            "exchanged or differently scaled coordinates, or leave them out."
        )


def _index_of(points: Any) -> list | None:
    """The index of a pandas table, where it has names."""
    index = getattr(points, "index", None)
    if index is None or callable(index) or type(index).__name__ == "RangeIndex":
        return None
    return list(index)


def _checked_points(mesh: Any, points: Any) -> np.ndarray:
    try:
        array = np.array(points, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Stations got points that are no array of numbers ({error}): wanted shape "
            f"(n, {mesh.geometric_dimension})."
        ) from error
    dimension = mesh.geometric_dimension
    if array.ndim == 1 and dimension == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != dimension or not len(array):
        raise ValueError(
            f"Stations got points of shape {array.shape}: wanted (n, {dimension}), a row of "
            f"{dimension} coordinates for each point, at least one."
        )
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise ValueError(
            f"Stations: the coordinates of points {bad.tolist()} are NaN or infinite: leave them "
            "out."
        )
    return array
