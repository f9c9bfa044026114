"""Reads the record of the study: daily flow, rain and potential evaporation at six gauges."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from demos.studies.tables import fill_gaps, read_columns

from .tree import Reach

ORIGIN = (
    "The record is the data set Severn of the R package airGRiwrm 0.7.0 (github.com/cran/airGRiwrm,"
    " data/Severn.rda, AGPL-3), an extract of CAMELS-GB (Coxon et al. 2020, NERC Environmental "
    "Information Data Centre, doi 10.5285/8344e4f3-d2ea-44f5-8afa-86d2987543a9), as two tables: "
    "gauges.csv (gauge_id, area_km2, ...) and daily.csv (date, Q_54001_mm_day, ..., "
    "P_54001_mm_day, ..., PET_54001_mm_day, ...; a row a day). Give their folder: --data FOLDER."
)
GAUGES = {
    "Buildwas": "54095",
    "Bewdley": "54001",
    "Knightsford": "54029",
    "Saxons Lode": "54032",
    "Evesham": "54002",
    "Haw Bridge": "54057",
}
# Judged, each with the gauges above it; in this order are the areas between gauges.
ABOVE = {
    "Bewdley": ("Buildwas",),
    "Saxons Lode": ("Bewdley", "Knightsford"),
    "Haw Bridge": ("Saxons Lode", "Evesham"),
}
OUTER = ("Buildwas", "Knightsford", "Evesham")  # nothing of the record is above them
# Lengths are those of gauges.csv; where the Teme and the Avon join is from a map.
MOUTHS = {"mouth of the Teme": 13.0, "mouth of the Avon": 6.0}  # km above the next gauge


@dataclass
class River:
    """A record, a row a day, without days missing; of each gauge by its name.

    ``flow`` in m3/s has NaN in gaps, ``filled`` is linear in time there; ``rain`` and
    ``evaporation`` in mm/day are those of the area above; ``area`` is that in km2.
    """

    days: np.ndarray  # datetime64[D]
    area: dict[str, float]
    flow: dict[str, np.ndarray]
    filled: dict[str, np.ndarray]
    rain: dict[str, np.ndarray]
    evaporation: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.days)

    @property
    def years(self) -> np.ndarray:
        """The year of each day."""
        return self.days.astype("datetime64[Y]").astype(int) + 1970

    @property
    def between(self) -> np.ndarray:
        """The areas between gauges, in km2."""
        return np.array([self._between(self.area, name) for name in ABOVE])

    def _between(self, of: dict, name: str):
        return of[name] - sum(of[upper] for upper in ABOVE[name])

    def on_between(self, of: dict[str, np.ndarray]) -> np.ndarray:
        """Rain or evaporation of the areas between gauges, shape ``(areas, days)``.

        Sums over areas are differences there; what rounding makes negative is none.
        """
        volume = {name: of[name] * self.area[name] for name in GAUGES}
        parts = [self._between(volume, name) for name in ABOVE]
        return np.maximum(np.array(parts) / self.between[:, None], 0.0)

    def from_above(self, known: Collection[str]) -> np.ndarray:
        """What comes from above each area between gauges, in mm/day, shape ``(areas, days)``.

        From the nearest gauges that are known: all that have none above them, and those given.
        """
        found = []
        for name in ABOVE:
            uppers = nearest(name, known)
            flow = np.sum([self.filled[upper] for upper in uppers], 0)
            found.append(flow * 86.4 / sum(self.area[upper] for upper in uppers))
        return np.array(found)

    def reaches(self) -> list[Reach]:
        """The river from Buildwas, Knightsford and Evesham to Haw Bridge."""
        area, teme, avon = self.area, *MOUTHS
        below_teme, below_avon = MOUTHS.values()
        joined = area["Bewdley"] + area["Knightsford"], area["Saxons Lode"] + area["Evesham"]
        return [
            Reach("Buildwas", "Bewdley", 42, area["Buildwas"], 110, between=0),
            Reach("Bewdley", teme, 45 - below_teme, area["Bewdley"], 90, between=1),
            Reach("Knightsford", teme, 32 - below_teme, area["Knightsford"], 160, between=1),
            Reach(teme, "Saxons Lode", below_teme, joined[0], 90, between=1),
            Reach("Saxons Lode", avon, 15 - below_avon, area["Saxons Lode"], 90, between=2),
            Reach("Evesham", avon, 43 - below_avon, area["Evesham"], 45, between=2),
            Reach(avon, "Haw Bridge", below_avon, joined[1], 90, between=2),
        ]


def nearest(name: str, known: Collection[str]) -> list[str]:
    """The nearest gauges above one, without those that are not known but have others above."""
    found: list[str] = []
    for upper in ABOVE[name]:
        is_known = upper in known or upper not in ABOVE
        found += [upper] if is_known else nearest(upper, known)
    return found


def read_river(folder: Path | str | None) -> River:
    """Read the two files; errors say what came, what was wanted and what to do."""
    if folder is None:
        raise SystemExit(f"rivers: no data folder was given. {ORIGIN}")
    folder = Path(folder)
    gauges = read_columns("rivers", folder / "gauges.csv", ("gauge_id", "area_km2"), ORIGIN)
    areas = dict(zip(gauges["gauge_id"], gauges["area_km2"], strict=True))
    lost = [i for i in GAUGES.values() if i not in areas]
    if lost:
        raise SystemExit(
            f"rivers: {folder / 'gauges.csv'} lacks the gauges {', '.join(lost)}. {ORIGIN}"
        )
    kinds = ("Q", "P", "PET")
    wanted = [f"{kind}_{i}_mm_day" for kind in kinds for i in GAUGES.values()]
    days, table = _read(folder / "daily.csv", wanted)
    area = {name: float(areas[i]) for name, i in GAUGES.items()}
    flow, rain, evaporation = (
        {name: table[f"{kind}_{i}_mm_day"] for name, i in GAUGES.items()} for kind in kinds
    )
    flow = {name: values * area[name] / 86.4 for name, values in flow.items()}
    filled = {name: fill_gaps(values) for name, values in flow.items()}
    rain = {name: fill_gaps(values) for name, values in rain.items()}
    evaporation = {name: fill_gaps(values) for name, values in evaporation.items()}
    return River(days, area, flow, filled, rain, evaporation)


def _read(path: Path, wanted: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Days and columns of a table with dates, NaN in empty cells."""
    table = read_columns("rivers", path, ("date", *wanted), ORIGIN)
    try:
        days = np.array([date.fromisoformat(d) for d in table["date"]], "datetime64[D]")
        values = {k: np.array([float(v) if v else np.nan for v in table[k]]) for k in wanted}
    except ValueError as error:
        raise SystemExit(
            f"rivers: {path} cannot be read ({error}): wanted dates such as 1984-03-01 and "
            f"numbers. {ORIGIN}"
        ) from error
    if (np.diff(days) != np.timedelta64(1)).any():
        raise SystemExit(f"rivers: the dates of {path} are not one day after the other. {ORIGIN}")
    empty = [k for k, v in values.items() if np.isnan(v).all()]
    if empty:
        raise SystemExit(f"rivers: {path} has no numbers in {', '.join(empty)}. {ORIGIN}")
    return days, values
