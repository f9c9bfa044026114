"""Reads Vachaud's horizontal column: water contents while it is wetted, and afterwards."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demos.studies.tables import read_columns

ORIGIN = (
    "The experiments are G. Vachaud's horizontal infiltration and redistribution, examples of the "
    "inverse solution of HYDRUS-1D (github.com/AgriHarmony/HYDRUS-1-D-gfortran, "
    "data/Examples/Inverse), as two tables: vachaud_horizontal_infiltration.csv and "
    "vachaud_horizontal_redistribution.csv (time_min, x_cm, water_content, "
    "hydrus_fit_water_content). Give their folder: --data FOLDER."
)
NAMES = ("time_min", "x_cm", "water_content", "hydrus_fit_water_content")


@dataclass
class Experiment:
    """Readings of the water content, a row each: minutes, cm from the inlet, and two contents.

    ``published`` is the fit of HYDRUS-1D, van Genuchten's and Mualem's laws with hysteresis.
    """

    time: np.ndarray
    x: np.ndarray
    content: np.ndarray
    published: np.ndarray
    shut: float = 620.0  # min, when the inlet is shut
    inlet: float = 0.43  # water content until then
    at_start: float = 0.02
    length: float = 50.0  # cm

    @property
    def after(self) -> np.ndarray:
        """Which readings are of the redistribution."""
        return self.time > self.shut

    @property
    def places(self) -> np.ndarray:
        """Where was read, increasing."""
        return np.unique(self.x)

    def table(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some readings as times, and contents of the shape (times, places) with gaps."""
        times = np.unique(self.time[which])
        values = np.full((len(times), len(self.places)), np.nan)
        rows, columns = self.cells(which)
        values[rows, columns] = self.content[which]
        return times, values

    def cells(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of some readings in their table."""
        times = np.unique(self.time[which])
        return np.searchsorted(times, self.time[which]), np.searchsorted(self.places, self.x[which])


def read_experiment(folder: Path | str | None) -> Experiment:
    """Read both tables; readings that both have count once.

    Errors say what came, what was wanted and what to do.
    """
    if folder is None:
        raise SystemExit(f"redistribution: no data folder was given. {ORIGIN}")
    first, second = (
        _rows(Path(folder) / f"vachaud_horizontal_{part}.csv")
        for part in ("redistribution", "infiltration")
    )
    further = [row for row in second if not (first[:, :2] == row[:2]).all(axis=1).any()]
    rows = np.vstack([first, *further])
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    return Experiment(*rows.T)


def _rows(path: Path) -> np.ndarray:
    """A table of numbers, one row for each place and time, checked."""
    columns = read_columns("redistribution", path, NAMES, ORIGIN)
    try:
        rows = np.array([[float(text) for text in columns[name]] for name in NAMES]).T
    except ValueError as error:
        raise SystemExit(
            f"redistribution: {path} cannot be read ({error}): wanted numbers. {ORIGIN}"
        ) from error
    contents = rows[:, 2:]
    if not ((contents > 0) & (contents < 1)).all():
        raise SystemExit(
            f"redistribution: {path} has water contents that are not between 0 and 1. {ORIGIN}"
        )
    if len(np.unique(rows[:, :2], axis=0)) < len(rows):
        raise SystemExit(f"redistribution: {path} has two readings of one place and time. {ORIGIN}")
    return rows
