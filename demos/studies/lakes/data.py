"""Reads the records of the study: daily temperature profiles, weather and the lake's shape."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from demos.studies.tables import fill_gaps, read_columns

ORIGIN = (
    "The records are daily temperature profiles, weather and depths of Lough Feeagh (Ireland; "
    "Marine Institute, data.marine.ie dataset 2817) and Langtjern (Norway; NIVA), from "
    "github.com/aemon-j/LER_examples, as tables with a row a day: feeagh_temperature.csv (date, "
    "T_0.9m_degC, ...), feeagh_meteo.csv (date, wind_10m_m_s, shortwave_down_W_m2, ...), "
    "feeagh_bathymetry.csv (depth_m, area_m2), and the same for langtjern. "
    "Give their folder: --data FOLDER."
)
WEATHER = ("wind_10m_m_s", "shortwave_down_W_m2")
EXTINCTION = {"feeagh": 0.98, "langtjern": 2.25}  # of light, 1/m


@dataclass
class Lake:
    """A lake's record, a row a day, without days missing.

    ``measured`` has NaN in gaps; ``filled`` is linear in time there; both of shape (days, depths).
    """

    name: str
    days: np.ndarray  # datetime64[D]
    depths: np.ndarray  # m
    measured: np.ndarray
    filled: np.ndarray
    wind: np.ndarray  # m/s at 10 m
    light: np.ndarray  # W/m2 at the surface
    bathymetry: np.ndarray  # depth in m and area in m2, a row each
    extinction: float  # 1/m

    def __len__(self) -> int:
        return len(self.days)

    @property
    def years(self) -> np.ndarray:
        """The year of each day."""
        return self.days.astype("datetime64[Y]").astype(int) + 1970

    @property
    def months(self) -> np.ndarray:
        """The month of each day, 1 to 12."""
        return self.days.astype("datetime64[M]").astype(int) % 12 + 1

    def area(self, depth: np.ndarray) -> np.ndarray:
        """The area at a depth, in m2."""
        return np.interp(depth, *self.bathymetry.T)

    def wind_of(self, days: int) -> np.ndarray:
        """The mean wind of the last days, with the present one."""
        sums = np.cumsum(np.r_[np.full(days, self.wind[0]), self.wind])
        return (sums[days:] - sums[:-days]) / days


def read_lake(folder: Path | str | None, name: str = "feeagh") -> Lake:
    """Read a lake's three files; errors say what came, what was wanted and what to do."""
    if folder is None:
        raise SystemExit(f"lakes: no data folder was given. {ORIGIN}")
    folder = Path(folder)
    days, columns = _read(folder / f"{name}_temperature.csv")
    profiles = [c for c in columns if c.startswith("T_") and c.endswith("m_degC")]
    if len(profiles) < 3:
        raise SystemExit(
            f"lakes: {folder / name}_temperature.csv has {len(profiles)} columns T_..m_degC, "
            f"wanted three depths or more. {ORIGIN}"
        )
    weather_days, weather = _read(folder / f"{name}_meteo.csv", WEATHER)
    first = max(days[0], weather_days[0])
    last = min(days[-1], weather_days[-1])
    calendar = np.arange(first, last + 1)
    measured = np.column_stack([_on(calendar, days, columns[c]) for c in profiles])
    wind, light = (fill_gaps(_on(calendar, weather_days, weather[c])) for c in WEATHER)
    return Lake(
        name=name,
        days=calendar,
        depths=np.array([float(c[2 : -len("m_degC")]) for c in profiles]),
        measured=measured,
        filled=np.column_stack([fill_gaps(m) for m in measured.T]),
        wind=wind,
        light=light,
        bathymetry=_bathymetry(folder / f"{name}_bathymetry.csv"),
        extinction=EXTINCTION[name],
    )


def _read(path: Path, wanted: tuple[str, ...] = ()) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Days and columns of a table with dates, NaN in empty cells."""
    table = read_columns("lakes", path, ("date", *wanted), ORIGIN)
    try:
        days = np.array([date.fromisoformat(d) for d in table.pop("date")], "datetime64[D]")
        values = {k: np.array([float(v) if v else np.nan for v in c]) for k, c in table.items()}
    except ValueError as error:
        raise SystemExit(
            f"lakes: {path} cannot be read ({error}): wanted dates such as 2004-01-05 and numbers. "
            f"{ORIGIN}"
        ) from error
    if (np.diff(days) <= np.timedelta64(0)).any():
        raise SystemExit(f"lakes: the dates of {path} do not increase. {ORIGIN}")
    return days, values


def _bathymetry(path: Path) -> np.ndarray:
    table = read_columns("lakes", path, ("depth_m", "area_m2"), ORIGIN)
    return np.array([[float(v) for v in table[c]] for c in ("depth_m", "area_m2")]).T


def _on(calendar: np.ndarray, days: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A column on all days of the calendar."""
    result = np.full(len(calendar), np.nan)
    known = (days >= calendar[0]) & (days <= calendar[-1])
    result[(days[known] - calendar[0]).astype(int)] = values[known]
    return result
