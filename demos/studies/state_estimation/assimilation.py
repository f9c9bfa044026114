"""4D-Var: initial state and law from the readings of a window, with how sure they are."""

from copy import copy
from typing import Any

import numpy as np
from firedrake import Constant, Function, split
from firedrake.adjoint import Control, ReducedFunctional
from firedrake.adjoint.covariance_operator import AutoregressiveCovariance

import femnn
from demos.studies.common import recording

from .model import Channel
from .twin import GAUGES, LEVEL_ERROR, METERS, PLACES, VELOCITY_ERROR, Twin

LENGTH_SCALE = 4e3  # m, over which errors of the first guess are correlated
LEVEL_STD, DISCHARGE_STD = 0.3, 0.3  # m, m2/s: how far the first guess may be off


class Assimilation:
    """A channel, the readings and the priors of what is not known.

    Parameters
    ----------
    channel
        The model.
    twin
        Where the readings come from.
    background
        The first guess of the initial state, as :func:`first_guess` gives it.
    end
        Time until which readings count, in s; the window's by default.

    Attributes
    ----------
    scales : dict of str and Constant
        By what factor the errors of levels and velocities are larger than the instruments'.
    """

    def __init__(
        self, channel: Channel, twin: Twin, background: np.ndarray, end: float | None = None
    ):
        self.channel, self.twin = channel, twin
        self.end = twin.times.window if end is None else end
        self.scales = {k: Constant(1.0, name=f"{k} scale") for k in ("level", "velocity")}
        self.levels = self._readings("level", GAUGES, twin.level_gauges, LEVEL_ERROR, "m")
        self.velocities = self._readings(
            "velocity", METERS, twin.velocity_meters, VELOCITY_ERROR, "m/s"
        )
        self.priors = []
        stds = (LEVEL_STD, DISCHARGE_STD)
        for f, values, std in zip(self.fields, background, stds, strict=True):
            f.dat.data[:] = values
            covariance = AutoregressiveCovariance(channel.V, L=LENGTH_SCALE, sigma=std, m=4)
            self.priors.append(femnn.FieldPrior(f, covariance, f.copy(deepcopy=True), fixed=False))
        self.law_prior = None
        if len(channel.weights):
            self.law_prior = femnn.GaussianPrior(channel.weights)

    @property
    def fields(self) -> list[Function]:
        """The initial state's level and discharge."""
        return [self.channel.level, self.channel.discharge]

    def _readings(
        self, name: str, places: np.ndarray, values: np.ndarray, std: float, units: str
    ) -> femnn.Observations:
        names = [f"{x / 1e3:g} km" for x in places]
        stations = femnn.Stations(self.channel.mesh, places, names)
        times = self.twin.times.readings
        data = femnn.Observations(
            stations, values, std, times, scale=self.scales[name], units=units, name=name
        )
        return data.between(0.0, self.end)

    def until(self, end: float) -> "Assimilation":
        """The same model, priors and scales with the readings until a time only, in s."""
        other = copy(self)
        other.end = end
        other.levels, other.velocities = (
            data.between(0.0, end) for data in (self.levels, self.velocities)
        )
        return other

    def record(self, state: bool = True) -> ReducedFunctional:
        """Minus the logarithm of the posterior density of initial state and law.

        Parameters
        ----------
        state
            Whether the state is not known; the law alone is a control otherwise.
        """
        with recording():
            Jhat = self._functional(self.end, state=state)
        Jhat.optimize_tape()
        return Jhat

    def record_beyond(self) -> tuple[ReducedFunctional, list]:
        """The same, and the model minus the truth after the window, recorded with it.

        Returns
        -------
        Jhat : ReducedFunctional
            The functional.
        errors : list of Vector
            Of level and discharge at the places held out, at all times of readings.
        """
        watchers = [
            self._judging(values).start() for values in (self.twin.level, self.twin.discharge)
        ]
        with recording():
            Jhat = self._functional(self.twin.times.end, *watchers)
            for watcher in watchers:
                watcher.misfit()
        return Jhat, [watcher.residuals for watcher in watchers]

    def _judging(self, truth: np.ndarray) -> femnn.Observations:
        stations = femnn.Stations(self.channel.mesh, PLACES)
        return femnn.Observations(stations, truth, 1.0, self.twin.times.readings)

    def _functional(self, end: float, *watchers: Any, state: bool = True) -> ReducedFunctional:
        eta, q = split(self.channel.state)
        levels, velocities = self.levels.start(), self.velocities.start()

        def observe(state: Function, time: float) -> None:
            if not self.twin.times.is_reading(time):
                return
            levels(eta, time)
            velocities(q / (eta + self.channel.depth), time)
            for watcher, part in zip(watchers, (eta, q), strict=False):
                watcher(part, time)

        self.channel.march(0.0, end, observe)
        J = levels.misfit() + velocities.misfit()
        for prior in self.priors:
            J += prior.energy()
        controls = [Control(f) for f in self.fields] if state else []
        if self.law_prior is not None:
            J += self.law_prior.energy()
            controls.append(Control(self.channel.weights))
        return ReducedFunctional(J, controls)
