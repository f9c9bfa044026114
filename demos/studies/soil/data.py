"""Reads the soil temperatures of the study: hourly CSV to means of days, cut into winters."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np

from demos.studies.tables import fill_gaps, read_columns

ORIGIN = (
    "The record is the hourly soil temperature at Fargo, North Dakota, 5 to 225 cm, measured by "
    "the North Dakota Agricultural Weather Network (NDAWN) and published as "
    "fargo_soil_temperature.csv in the public PyNotes collection of A. Patrignani. Download it "
    "and give its path: --data FILE."
)
DEPTHS_CM = (5, 10, 20, 30, 40, 50, 60, 80, 100, 125, 150, 175, 200, 225)
COLUMNS = ("time_cst", *(f"T{d}cm" for d in DEPTHS_CM))
TIME_FORMAT = "%m/%d/%y %H:%M"
FEWEST_DAYS = 40
COLD_MONTHS = (11, 12, 1, 2, 3, 4)


@dataclass
class Record:
    """Mean temperatures of days.

    ``measured`` has NaN where less than half of a day's values came, ``filled`` is linear in time
    there; both of shape (days, thermometers).
    """

    first_day: date
    depths: np.ndarray  # m
    measured: np.ndarray
    filled: np.ndarray
    gaps: str

    def __len__(self) -> int:
        return len(self.measured)

    def days(self, rows: np.ndarray) -> np.ndarray:
        """The dates of rows, as datetime64."""
        return np.datetime64(self.first_day) + rows

    def is_cold(self, rows: np.ndarray) -> np.ndarray:
        """Whether rows are of November to April."""
        months = self.days(rows).astype("datetime64[M]").astype(int) % 12 + 1
        return np.isin(months, COLD_MONTHS)


@dataclass
class Part:
    """A run from a row's measured profile on, and the rows that count in it."""

    start: int
    first: int
    last: int
    winter: int  # of those that are run together


@dataclass
class Winters:
    """How a record is cut: years from autumn on, two in the first half and two in the second."""

    record: Record

    @property
    def n_days(self) -> int:
        """Of a year."""
        return len(self.record) // 2 // 2

    @property
    def fitted(self) -> list[Part]:
        """The first two years."""
        return self._years(0)

    @property
    def held_out(self) -> list[Part]:
        """The last two years."""
        return self._years(len(self.record) // 2)

    def cut(self, n: int, forgotten: int) -> list[Part]:
        """Each of the first two years in n parts, which run some days before they count."""
        parts = []
        for year in self.fitted:
            cuts = np.linspace(year.start, year.last, n + 1).astype(int).tolist()
            for i, (first, last) in enumerate(pairwise(cuts)):
                start = first - forgotten if i else first
                parts.append(Part(start, first + 1, last, year.winter))
        return parts

    def _years(self, row: int) -> list[Part]:
        starts = [row, row + self.n_days]
        return [Part(s, s + 1, s + self.n_days, i) for i, s in enumerate(starts)]


def read_record(path: Path | str | None) -> Record:
    """Read the CSV file; errors say what came, what was wanted and what to do."""
    if path is None:
        raise SystemExit(f"soil: no data file was given. {ORIGIN}")
    table = read_columns("soil", Path(path), COLUMNS, ORIGIN)
    hours, values = _numbers([table[c] for c in COLUMNS], path)
    return _means(hours // 24, values, path)


def _numbers(columns: list[list[str]], path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Hours (from the calendar's first day) and values of all rows, NaN where one is missing."""
    parsed = []
    for number, cells in enumerate(zip(*columns, strict=True), start=2):
        try:
            time = datetime.strptime(cells[0], TIME_FORMAT)
            values = [float(c) if c.strip() else np.nan for c in cells[1:]]
        except ValueError as error:
            raise SystemExit(
                f"soil: line {number} of {path} cannot be read ({error}): wanted a time "
                f"such as 10/2/14 12:00 and temperatures in degrees Celsius. {ORIGIN}"
            ) from error
        parsed.append((24 * time.toordinal() + time.hour, values))
    return np.array([p[0] for p in parsed]), np.array([p[1] for p in parsed])


def _means(days: np.ndarray, values: np.ndarray, path: Path | str) -> Record:
    first, n_days = int(days.min()), int(np.ptp(days)) + 1
    rows = np.bincount(days - first, minlength=n_days)
    usual = int(np.median(rows[rows > 0]))
    counts, sums = np.zeros((n_days, values.shape[1])), np.zeros((n_days, values.shape[1]))
    np.add.at(counts, days - first, np.isfinite(values))
    np.add.at(sums, days - first, np.nan_to_num(values))
    whole = slice(int(rows[0] < usual), n_days - int(rows[-1] < usual))
    enough = counts >= usual / 2
    means = np.where(enough, sums / np.maximum(counts, 1), np.nan)[whole]
    if len(means) < FEWEST_DAYS or np.isnan(means).all(axis=0).any():
        raise SystemExit(
            f"soil: {path} has {len(means)} whole days and must have at "
            f"least {FEWEST_DAYS}, with values of every thermometer. {ORIGIN}"
        )
    return Record(
        first_day=date.fromordinal(first) + timedelta(days=whole.start),
        depths=np.array(DEPTHS_CM) / 100,
        measured=means,
        filled=np.column_stack([fill_gaps(m) for m in means.T]),
        gaps=_gaps(values, rows, usual, means),
    )


def _gaps(values: np.ndarray, rows: np.ndarray, usual: int, means: np.ndarray) -> str:
    missing = np.isnan(means)
    longest = 0
    for column in missing.T:
        edges = np.flatnonzero(np.diff(np.r_[0, column.astype(int), 0]))
        longest = max(longest, int(np.max(edges[1::2] - edges[::2], initial=0)))
    return (
        f"{int(np.isnan(values).sum())} of {values.size} values are empty and "
        f"{int(np.maximum(usual - rows[1:-1], 0).sum())} rows are absent; "
        f"{int(missing.sum())} of {missing.size} means are missing (fewer than half of their "
        f"values), at most {longest} on end. They are left out of the misfit; where "
        "one is needed as a boundary or initial value it is interpolated in time."
    )
