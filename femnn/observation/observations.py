"""Observations: data of what can be observed, with their errors, gaps and times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyadjoint import AdjFloat
from pyadjoint.tape import no_annotations

from femnn.observation.cf import time_series
from femnn.observation.data import checked
from femnn.observation.netcdf import read
from femnn.observation.observable import Observable, check_same_on_ranks, listed
from femnn.observation.observed import Observed
from femnn.observation.parts import Parted
from femnn.observation.sources import places, source_of
from femnn.observation.table import Table
from femnn.observation.times import as_numbers
from femnn.parallel import on_rank_zero
from femnn.tape.losses import Loss


class Observations(Parted):
    """Data at stations, or of other observables, with their errors.

    Parameters
    ----------
    at
        What is observed: :class:`~femnn.Stations`, :class:`~femnn.Averages`,
        :class:`~femnn.Fluxes` or :class:`~femnn.Functionals`.
    values
        The data, shape ``(n, ...)``, with times ``(n_times, n, ...)``, where ``...`` is the shape
        of what is observed.  NaN is a gap, and stays one.  The same on every rank.  A pandas
        table has a column for each place and times as its index, a pandas series the places' names
        as its index, an xarray array a dimension whose coordinate has the names; these are brought
        into the order of ``at``, and data of other places are left out.
    std
        Standard deviation of the data's errors: a number, one for each place, shape ``(n,)``, or
        one for each value, as an array or as ``values``.  May be left out where ``scale`` is
        given.
    times
        The values' times, increasing, shape ``(n_times,)``: numbers in the model's unit, or dates.
        Those of a table by default; ``None`` for a steady model.
    scale
        A factor of ``std`` that is estimated: a Constant or a Function on the Real space, a scalar
        or one number for each place, or an :class:`~femnn.ErrorModel`.
    correlation
        The time after which the errors at one place are correlated by 1 / e: a number, one for
        each place, shape ``(n,)``, or a Constant that is estimated.  Gaps count by their length.
    loss
        :class:`~femnn.Huber` or :class:`~femnn.StudentT` where data may have outliers.
    units
        The data's unit, for tables of scores; the one that pandas or xarray hold by default.
    name
        What was measured, for tables of scores.
    origin
        The date at which the model's time is zero, where times are dates: ``"2020-01-01"``.
    time_unit
        The unit of the model's time then: ``"s"``, ``"min"``, ``"h"`` or ``"d"``.

    Attributes
    ----------
    at : Observable
        What is observed.
    values, std : numpy.ndarray
        Of the shape of the values given; NaN in gaps.
    times : numpy.ndarray or None
        The times, shape ``(n_times,)``.
    names : tuple of str
        The names of the places.
    units, name : str
        The unit, and what was measured.

    Raises
    ------
    RuntimeError
        If the data differ between ranks.
    TypeError
        If ``at`` is no observable, or ``scale`` of another kind.
    ValueError
        If shapes do not fit, all values are NaN, times do not increase, or a standard deviation is
        missing or not positive where there is a value.

    Notes
    -----
    A correlation in time is that of a process whose memory decays exponentially (AR(1), for any
    distances): each residual is compared with what the last one at its place lets expect.

    References
    ----------
    G. Evin, M. Thyer, D. Kavetski, D. McInerney, G. Kuczera: Comparison of joint versus
    postprocessor approaches for hydrological uncertainty estimation accounting for error
    autocorrelation and heteroscedasticity, Water Resour. Res. 50 (2014).

    Examples
    --------
    >>> data = Observations(Stations(mesh, points), heads, std=0.05, units="m")
    >>> J = data.misfit(u)

    In a time loop, with the initial state:

    >>> observe = data.start()
    >>> observe(u, t)
    >>> for step in range(steps):
    ...     solver.solve()
    ...     observe(u, t + (step + 1) * dt)
    >>> J = observe.misfit()
    """

    @no_annotations
    def __init__(
        self,
        at: Observable,
        values: Any,
        std: Any = None,
        times: Any = None,
        *,
        scale: Any = None,
        correlation: Any = None,
        loss: Loss | None = None,
        units: str = "",
        name: str = "",
        origin: Any = None,
        time_unit: str = "s",
    ):
        if not isinstance(at, Observable):
            raise TypeError(
                f"Observations got a {type(at).__name__} as what is observed: wanted "
                "Stations(mesh, points), or Averages, Fluxes or Functionals."
            )
        source = source_of(at.names, values)
        times = source.times if times is None else times
        times = None if times is None else as_numbers(times, origin, time_unit)
        std = source_of(at.names, std).values
        data = checked(at.names, source.values, std, times, scale is not None)
        check_same_on_ranks("Observations", at.comm, "data", data.values, data.std, data.times)
        self.units, self.name = units or source.units, name or source.name
        super().__init__(at, data, loss, {"scale": scale, "correlation": correlation})

    @classmethod
    def from_netcdf(
        cls,
        at: Observable,
        path: str | Path,
        variable: str,
        std: Any = None,
        *,
        origin: Any = None,
        time_unit: str | None = None,
        **options: Any,
    ) -> Observations:
        """Time series at stations from a netCDF file of the CF conventions.  Collective.

        Rank 0 reads.  Series of stations that ``at`` does not have are left out.

        Parameters
        ----------
        at
            What is observed; its names are the file's, in any order.
        path
            A netCDF file, classic or netCDF-4, with ``featureType = "timeSeries"``.
        variable
            The variable with the data.
        std
            As for :class:`Observations`, or the name of a variable; by default the ancillary
            variable whose standard name ends with ``standard_error``, where there is one.
        origin
            The date at which the model's time is zero; the file's own by default.
        time_unit
            The unit of the model's time: ``"s"``, ``"min"``, ``"h"`` or ``"d"``; the file's own by
            default.
        **options
            More for :class:`Observations`.

        Returns
        -------
        Observations
            With the file's units and names; what the file marks as missing is a gap.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no netCDF file, a variable is not there or has no such series, a station is
            missing, or there is no ``std``.
        """
        own = std if isinstance(std, str) else None
        series = on_rank_zero(
            at.comm, lambda: time_series(read(path), variable, own, origin, time_unit)
        )
        columns = places(at.names, series.names, f"the stations of {path}")
        values = series.values[..., columns]
        if own is not None or (std is None and series.std is not None):
            std = series.std[..., columns]
        options = {"units": series.units, "name": series.name, **options}
        return cls(at, values, std, series.times, **options)

    def __repr__(self) -> str:
        what = f"{self.name}, " if self.name else ""
        times = "" if self.times is None else f" at {len(self.times)} times"
        return f"Observations({what}{len(self)} values of {listed(self.names, 3)}{times})"

    def start(self) -> Observed:
        """Begin to observe a run of the model.

        Returns
        -------
        Observed
            Call it with the model's states: ``observe(u, t)``, or ``observe(u)`` without times;
            ``observe.misfit()`` is the misfit then, ``observe.model`` has the model's values.
        """
        return Observed(self._comparison)

    def misfit(self, u: Any) -> AdjFloat:
        """Half the sum of squared weighted residuals of a steady model; recorded.  Collective.

        With a loss the sum of the residuals' losses; where errors are estimated, minus the
        logarithm of the likelihood, up to a constant.

        Parameters
        ----------
        u
            What the places of observation take: for stations a Function or an expression.

        Returns
        -------
        AdjFloat
            The same on every rank, and on any number of them.

        Raises
        ------
        ValueError
            If the data have times, the model's values another shape than the data, or a standard
            deviation that is estimated is not positive.

        Warns
        -----
        UserWarning
            If the first misfit is so large that units may be wrong.
        """
        if self.times is not None:
            raise ValueError(
                "misfit(u): the data have times: observe the run (observe = observations.start(), "
                "observe(u, t) for the initial state and after each step), and take "
                "observe.misfit()."
            )
        observe = self.start()
        observe(u)
        return observe.misfit()

    def residuals(self, model: Any) -> np.ndarray:
        """Weighted residuals, (model - data) / error, of which no two should be correlated.

        Parameters
        ----------
        model
            The model's values, of the shape of :attr:`values`; not used in gaps.

        Returns
        -------
        numpy.ndarray
            Of the shape of :attr:`values`, NaN in gaps; with the present values of what is
            estimated, and without the correlation in time that the errors were given.

        Raises
        ------
        ValueError
            If the shape does not fit, or the model has no value where there is a datum.
        """
        return self._comparison.present_residuals(model)

    def scores(
        self, model: Any, *, std: Any = None, samples: Any = None, level: float = 0.9
    ) -> Table:
        """How good a model is, by place and in all.

        Parameters
        ----------
        model
            The model's values, of the shape of :attr:`values`: ``observe.model``, or of a steady
            model ``data.at(u)``.  Not used in gaps.
        std
            Standard deviation of the model's values, as of a posterior: a number, or of the shape
            of :attr:`values`.  The data's own error is added to it.
        samples
            Instead, samples of the model's values, shape ``(n_samples, ...)`` with the shape of
            :attr:`values` behind.  The data's own error is added to each.
        level
            Probability of the interval whose coverage is counted.

        Returns
        -------
        Table
            A row for each place that has data, and ``"all"``.  Columns: ``n``, the number of data;
            ``rmse``; ``bias``, the mean of model minus data; ``nse`` (Nash-Sutcliffe) and ``kge``
            (Kling-Gupta), NaN where there are too few data for a spread; with ``std`` or
            ``samples`` the mean ``crps`` (continuous ranked probability score) and ``coverage of
            90%``, the part of the data in the central interval of this probability.  ``rmse``,
            ``bias`` and ``crps`` are in the data's unit.

        Raises
        ------
        ValueError
            If a shape does not fit, ``level`` is no probability, or the model has no value where
            there is a datum.

        Notes
        -----
        In the row of all the spread in ``nse`` is about each place's own mean where there are
        times, so that places at different levels do not count as skill; ``kge`` is given for steady
        models only.  The errors are taken for normal, with the present values of what is estimated.

        References
        ----------
        H. V. Gupta, H. Kling, K. K. Yilmaz, G. F. Martinez: Decomposition of the mean squared error
        and NSE performance criteria, J. Hydrol. 377 (2009).  T. Gneiting, A. E. Raftery: Strictly
        proper scoring rules, prediction, and estimation, J. Amer. Statist. Assoc. 102 (2007).
        """
        if not 0 < level < 1:
            raise ValueError(f"scores got level={level!r}: wanted a probability, such as 0.9.")
        rows, columns = self._comparison.scores(model, std, samples, level)
        in_unit = ("rmse", "bias", "crps") if self.units else ()
        units = {name: self.units for name in columns if name in in_unit}
        return Table(columns, rows, units, self.name)
