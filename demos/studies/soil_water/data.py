"""Reads the evaporation experiment: heads in a column, and the evaporation from its top."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ORIGIN = (
    "The experiment is O. Wendroth's evaporation from a column of soil, an example of the inverse "
    "solution of HYDRUS-1D (github.com/AgriHarmony/HYDRUS-1-D-gfortran, data/Examples/Inverse), "
    "as two tables: wendroth_evaporation_heads.csv (time_d, depth_cm, head_cm, "
    "hydrus_fit_head_cm) and wendroth_evaporation_flux.csv (until_time_d, evaporation_cm_d). "
    "Give their folder: --data FOLDER."
)
HEADS = ("time_d", "depth_cm", "head_cm", "hydrus_fit_head_cm")
FLUX = ("until_time_d", "evaporation_cm_d")


@dataclass
class Evaporation:
    """The experiment: lengths and heads in cm, times in days, depths positive downward.

    ``heads`` and ``published``, a fit of van Genuchten's and Mualem's laws to all depths by
    HYDRUS-1D, have the shape (times, depths); ``flux`` is the evaporation up to each time.
    """

    times: np.ndarray
    depths: np.ndarray
    heads: np.ndarray
    published: np.ndarray
    flux: np.ndarray  # cm/d
    height: float = 10.0
    at_start: tuple[float, float] = (-20.73, -10.88)  # head at the top and at the bottom
    mean_at_end: float = 0.183675  # water content of the whole column

    def columns(self, depths: tuple[float, ...]) -> list[int]:
        """Where these depths are among all."""
        return [int(np.argmin(np.abs(self.depths - depth))) for depth in depths]

    @property
    def evaporated(self) -> float:
        """All water that left, in cm."""
        return float(self.flux @ np.diff(self.times, prepend=0.0))


def read_evaporation(folder: Path | str | None) -> Evaporation:
    """Read both tables; errors say what came, what was wanted and what to do."""
    if folder is None:
        raise SystemExit(f"soil_water: no data folder was given. {ORIGIN}")
    path = Path(folder) / "wendroth_evaporation_heads.csv"
    rows = _table(path, HEADS)
    times, depths = np.unique(rows[:, 0]), np.unique(rows[:, 1])
    if len(rows) != len(times) * len(depths) or len(depths) < 2:
        raise SystemExit(
            f"soil_water: {path} has {len(rows)} rows for {len(times)} times and {len(depths)} "
            f"depths, wanted one for each pair, of two depths or more. {ORIGIN}"
        )
    if not (rows[:, 2] < 0).all():
        raise SystemExit(f"soil_water: {path} has heads that are not negative. {ORIGIN}")
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    heads, published = rows[:, 2:].T.reshape(2, len(times), len(depths))
    return Evaporation(times, depths, heads, published, _flux(Path(folder), times))


def _flux(folder: Path, times: np.ndarray) -> np.ndarray:
    path = folder / "wendroth_evaporation_flux.csv"
    rows = _table(path, FLUX)
    if len(rows) != len(times) or not np.allclose(rows[:, 0], times, rtol=0, atol=1e-6):
        raise SystemExit(
            f"soil_water: the times of {path} are not those of the heads: wanted the evaporation "
            f"up to each of their {len(times)} times. {ORIGIN}"
        )
    return rows[:, 1]


def _table(path: Path, wanted: tuple[str, ...]) -> np.ndarray:
    """The columns of a table of numbers, shape (rows, columns)."""
    if not path.is_file():
        raise SystemExit(f"soil_water: there is no file {path}. {ORIGIN}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise SystemExit(f"soil_water: {path} lacks {', '.join(missing)}. {ORIGIN}")
        try:
            rows = [[float(row[name]) for name in wanted] for row in reader]
        except (TypeError, ValueError) as error:
            raise SystemExit(
                f"soil_water: {path} cannot be read ({error}): wanted numbers. {ORIGIN}"
            ) from error
    if not rows:
        raise SystemExit(f"soil_water: {path} has no rows. {ORIGIN}")
    return np.array(rows)
