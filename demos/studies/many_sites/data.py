"""Reads the stations' records: temperatures at five depths, and what is known of each place."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from demos.studies.tables import fill_gaps, read_columns

ORIGIN = (
    "The records are daily means of 2020 of stations of the US Climate Reference Network (NOAA "
    "NCEI, product daily01; Bell et al. 2013, J. Hydrometeorology 14, 977), as two tables: "
    "daily.csv (station, date, T_5cm_degC, T_10cm_degC, T_20cm_degC, T_50cm_degC, T_100cm_degC) "
    "and stations.csv (station, latitude_deg, longitude_deg, mean_air_degC, precip_mm_year, "
    "mean_theta_5cm ... mean_theta_100cm). Give their folder: --data FOLDER."
)
CENTIMETRES = (5, 10, 20, 50, 100)
TEMPERATURES = tuple(f"T_{d}cm_degC" for d in CENTIMETRES)
WATER = tuple(f"mean_theta_{d}cm" for d in CENTIMETRES)
PLACE = ("latitude_deg", "longitude_deg", "mean_air_degC", "precip_mm_year")
DAYS_IN_A_YEAR = 365.25
LEAST_DAYS = 183  # for the wave of the year
LEAST_LAG = 0.02  # of a wave, in radians: about a day of the year


@dataclass
class Record:
    """The stations' records, a row a day, without days missing.

    ``measured`` has NaN in gaps; ``filled`` is linear in time there; both of shape
    (days, stations, depths).  The first and the last depth are the model's boundaries.
    """

    names: tuple[str, ...]
    days: np.ndarray  # datetime64[D]
    measured: np.ndarray  # deg C
    filled: np.ndarray
    place: dict[str, np.ndarray]  # what is known of each station, shape (stations,)
    water: np.ndarray  # mean water content, shape (stations, depths)

    depths = np.array(CENTIMETRES) / 100  # m

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fitted(self) -> list[int]:
        """Every second station."""
        return list(range(0, len(self), 2))

    @property
    def held_out(self) -> list[int]:
        """The others."""
        return list(range(1, len(self), 2))

    @property
    def lag(self) -> np.ndarray:
        """By how much the year's wave is later at the lowest thermometer, in radians."""
        above, below = (year_wave(self.filled[:, :, i]) for i in (0, -1))
        return np.abs(np.angle(above / below)).clip(min=LEAST_LAG)

    def attributes(self, of: str) -> dict[str, np.ndarray]:
        """What a law may know of a station, each of shape (stations,).

        Parameters
        ----------
        of
            ``"place"`` for climate and mean water contents, ``"lag"`` for the logarithm of the
            year's lag between the boundary thermometers, or both with a ``+`` between, or
            ``"nothing"``.
        """
        rain = np.log(self.place["precip_mm_year"])
        place = {**self.place, "precip_mm_year": rain}
        place |= {f"water {d} cm": w for d, w in zip(CENTIMETRES, self.water.T, strict=True)}
        known = {"nothing": {}, "place": place, "lag": {"lag": np.log(self.lag)}}
        return {name: values for part in of.split("+") for name, values in known[part].items()}

    def standard(self, of: str) -> np.ndarray:
        """Attributes in the fitted stations' mean and spread, shape (stations, attributes).

        Those that are the same at all fitted stations are left out: they tell nothing.
        """
        columns = [x for x in self.attributes(of).values() if np.ptp(x[self.fitted]) > 0]
        table = np.column_stack(columns) if columns else np.zeros((len(self), 0))
        fitted = table[self.fitted]
        return (table - fitted.mean(axis=0)) / fitted.std(axis=0)


def year_wave(series: np.ndarray) -> np.ndarray:
    """The complex amplitude of the wave of a year, least squares; series of shape (days, ...)."""
    phase = 2 * np.pi * np.arange(len(series)) / DAYS_IN_A_YEAR
    waves = np.column_stack([np.ones(len(series)), np.cos(phase), np.sin(phase)])
    _, cosine, sine = np.linalg.lstsq(waves, series, rcond=None)[0]
    return cosine - 1j * sine


def read_record(folder: Path | str | None) -> Record:
    """Read the two tables; errors say what came, what was wanted and what to do."""
    if folder is None:
        raise SystemExit(f"many_sites: no data folder was given. {ORIGIN}")
    folder = Path(folder)
    stations = _table(folder / "stations.csv", ("station", *PLACE, *WATER))
    daily = _table(folder / "daily.csv", ("station", "date", *TEMPERATURES))
    names = tuple(row["station"] for row in stations)
    if len(names) < 4 or len(set(names)) < len(names):
        raise SystemExit(
            f"many_sites: {folder / 'stations.csv'} has {len(set(names))} stations in "
            f"{len(names)} rows, wanted four or more, each once. {ORIGIN}"
        )
    try:
        days, measured = _on_days(names, daily)
        numbers = {c: np.array([_number(row[c]) for row in stations]) for c in (*PLACE, *WATER)}
    except (KeyError, ValueError) as error:
        raise SystemExit(
            f"many_sites: the tables in {folder} cannot be read ({error}): wanted stations of "
            f"stations.csv, dates such as 2020-01-05 and numbers. {ORIGIN}"
        ) from error
    _check(folder, names, days, measured, numbers)
    water = np.column_stack([numbers.pop(c) for c in WATER])
    return Record(names, days, measured, _filled(measured), numbers, _water(water))


def _check(
    folder: Path,
    names: tuple[str, ...],
    days: np.ndarray,
    measured: np.ndarray,
    numbers: dict[str, np.ndarray],
) -> None:
    """Raise where a station lacks what the model or a law cannot do without."""
    for i, name in enumerate(names):
        lacking = [c for c in PLACE if not np.isfinite(numbers[c][i])]
        empty = np.isnan(measured[:, i]).all(axis=0)
        lacking += [c for c, none in zip(TEMPERATURES, empty, strict=True) if none]
        if all(np.isnan(numbers[c][i]) for c in WATER):
            lacking.append("any mean_theta_..cm")
        if lacking:
            raise SystemExit(
                f"many_sites: station {name} in {folder} has no {', '.join(lacking)}: leave it out "
                f"of stations.csv and daily.csv. {ORIGIN}"
            )
    if len(days) < LEAST_DAYS:
        raise SystemExit(
            f"many_sites: daily.csv in {folder} has {len(days)} days, wanted {LEAST_DAYS} or more, "
            f"for the wave of the year. {ORIGIN}"
        )


def _table(path: Path, wanted: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a table."""
    columns = read_columns("many_sites", path, wanted, ORIGIN)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _on_days(names: tuple[str, ...], daily: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """All days from the first to the last, and the temperatures there, NaN in gaps."""
    found = np.array([date.fromisoformat(row["date"]) for row in daily], "datetime64[D]")
    days = np.arange(found.min(), found.max() + 1)
    place = {name: i for i, name in enumerate(names)}
    measured = np.full((len(days), len(names), len(CENTIMETRES)), np.nan)
    for row, day in zip(daily, (found - days[0]).astype(int), strict=True):
        measured[day, place[row["station"]]] = [_number(row[c]) for c in TEMPERATURES]
    return days, measured


def _number(text: str | None) -> float:
    return float(text) if text else np.nan


def _filled(measured: np.ndarray) -> np.ndarray:
    """Linear in time where a temperature is missing."""
    series = measured.reshape(len(measured), -1)
    return np.column_stack([fill_gaps(column) for column in series.T]).reshape(measured.shape)


def _water(water: np.ndarray) -> np.ndarray:
    """Linear in the order of depths where a water content is missing."""
    return np.array([fill_gaps(row) for row in water])
