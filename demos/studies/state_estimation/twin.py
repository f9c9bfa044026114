"""The twin: a true channel on a finer mesh, what the gauges read of it, and the first guess."""

from dataclasses import dataclass, field

import numpy as np
from firedrake import Function, split
from pyadjoint.tape import no_annotations

import femnn

from .laws import Textbook, Vegetated
from .model import HOUR, Channel, Forcing

TIDE = 12.42 * HOUR  # s, the moon's half day
BASEFLOW = -0.25  # m2/s, from the river
GAUGES = np.array([1.1, 3.1, 5.3, 7.1, 9.1, 10.9]) * 1e3  # m from the sea, of the level
METERS = np.array([2.1, 8.1]) * 1e3  # of the velocity
PLACES = np.array([0.4, 1.6, 2.6, 3.9, 4.6, 6.2, 6.7, 7.7, 8.7, 9.7, 10.2, 11.6]) * 1e3  # held out
LEVEL_ERROR, VELOCITY_ERROR = 0.02, 0.03  # m, m/s


@dataclass(frozen=True)
class Times:
    """When things happen, in s; the window begins at zero.

    Attributes
    ----------
    window
        Length of the window, and of each of the tides that are predicted after it.
    every
        Between readings.
    spin_up
        Of truth and first guess, before the window.
    """

    window: float = 12.5 * HOUR
    every: float = 0.5 * HOUR
    spin_up: float = 12.5 * HOUR
    tides: tuple[str, ...] = ("the same tide", "storm tide", "low water")

    @property
    def end(self) -> float:
        return (1 + len(self.tides)) * self.window

    @property
    def readings(self) -> np.ndarray:
        """Times of all readings, those of the window and later ones."""
        return self.every * np.arange(round(self.end / self.every) + 1)

    def is_reading(self, t: float) -> bool:
        """Whether anything is read at a time."""
        number = t / self.every
        return number > -1e-6 and abs(number - round(number)) < 1e-6

    def parts(self) -> dict[str, np.ndarray]:
        """Which of the readings belong to the window, and to each tide after it."""
        number = np.ceil(self.readings / self.window - 1e-9).astype(int)
        names = ("window", *self.tides)
        return {name: np.maximum(number, 1) == i + 1 for i, name in enumerate(names)}


def bump(t: float, at: float, width: float) -> float:
    """A hump of height one."""
    return float(np.exp(-(((t - at) / width) ** 2)))


def tide(t: float) -> float:
    """The sea's level in m without wind; high water is 3 h after the readings begin."""
    return float(0.5 * np.cos(2 * np.pi * (t - 3 * HOUR) / TIDE))


def true_forcing(times: Times) -> Forcing:
    """A surge before the window, one after it, and then little water from sea and river."""
    storm, low = 2.23 * times.window, 3.72 * times.window

    def sea(t: float) -> float:
        surges = 0.45 * bump(t, -1.5 * HOUR, 2 * HOUR) + 1.1 * bump(t, storm, 4 * HOUR)
        return tide(t) + surges - 0.4 * bump(t, low, 4 * HOUR)

    def river(t: float) -> float:
        return BASEFLOW + 0.17 * bump(t, low, 6 * HOUR)

    return Forcing(sea, river)


def guessed_forcing() -> Forcing:
    """What is known of the time before the window: the tide, and what the river brings usually."""
    return Forcing(tide, lambda t: BASEFLOW)


@dataclass
class Twin:
    """The true channel and what is known of it.

    Attributes
    ----------
    level, discharge
        The truth at the places that are held out, at all times of readings, shape
        ``(times, places)``.
    level_gauges, velocity_meters
        Readings with errors, in the window only.
    level_held_out
        Readings of the level with errors at the places held out, at all times.
    visited
        Smallest and largest depth of the truth in the window and in each tide after it.
    background
        The first guess's level and discharge at its nodes, shape ``(2, nodes)``.
    """

    times: Times
    forcing: Forcing
    seed: int
    cells: int
    step: float
    level: np.ndarray = field(init=False)
    discharge: np.ndarray = field(init=False)
    level_gauges: np.ndarray = field(init=False)
    velocity_meters: np.ndarray = field(init=False)
    level_held_out: np.ndarray = field(init=False)
    visited: dict[str, tuple[float, float]] = field(init=False)

    @no_annotations
    def __post_init__(self):
        channel = Channel(Vegetated(), self.forcing, self.cells, self.step)
        level, q = split(channel.state)
        observed = {
            "level": (PLACES, level),
            "discharge": (PLACES, q),
            "gauges": (GAUGES, level),
            "meters": (METERS, q / (level + channel.depth)),
        }
        stations = {k: femnn.Stations(channel.mesh, x) for k, (x, _) in observed.items()}
        series: dict[str, list] = {name: [] for name in observed}
        depths = []

        def observe(state: Function, time: float) -> None:
            if not self.times.is_reading(time):
                return
            for name, (_, expression) in observed.items():
                series[name].append(np.array(stations[name](expression)))
            depths.append(channel.range_of_depths())

        channel.begin(self.forcing.sea(-self.times.spin_up), BASEFLOW)
        channel.march(-self.times.spin_up, self.times.end, observe)
        self.level, self.discharge = np.array(series["level"]), np.array(series["discharge"])
        self._read(np.array(series["gauges"]), np.array(series["meters"]))
        lowest, highest = np.array(depths).T
        parts = self.times.parts()
        self.visited = {
            n: (float(lowest[w].min()), float(highest[w].max())) for n, w in parts.items()
        }

    def _read(self, gauges: np.ndarray, meters: np.ndarray) -> None:
        """Readings with errors; of gauges and meters nothing after the window."""
        random = np.random.default_rng(self.seed)
        self.level_gauges = gauges + random.normal(0, LEVEL_ERROR, gauges.shape)
        self.velocity_meters = meters + random.normal(0, VELOCITY_ERROR, meters.shape)
        self.level_held_out = self.level + random.normal(0, LEVEL_ERROR, self.level.shape)
        after = self.times.readings > self.times.window + 1e-6
        self.level_gauges[after] = self.velocity_meters[after] = np.nan


@no_annotations
def first_guess(times: Times, cells: int, step: float) -> np.ndarray:
    """Level and discharge at the window's beginning by the textbook's n and the tide alone.

    Returns
    -------
    numpy.ndarray
        At the nodes of a channel of so many cells, shape ``(2, nodes)``.
    """
    forcing = guessed_forcing()
    channel = Channel(Textbook(), forcing, cells, step)
    channel.begin(forcing.sea(-times.spin_up), BASEFLOW)
    channel.march(-times.spin_up, 0.0)
    at_nodes = (Function(channel.V).project(part) for part in split(channel.state))
    return np.array([f.dat.data_ro.copy() for f in at_nodes])
