"""Reads the soil temperatures of the study: hourly CSV to means of some hours."""

import csv
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np

from demos.studies.tables import fill_gaps

ORIGIN = (
    "The record is the hourly soil temperature at Fargo, North Dakota, 5 to 225 cm, measured by "
    "the North Dakota Agricultural Weather Network (NDAWN) and published as "
    "fargo_soil_temperature.csv in the public PyNotes collection of A. Patrignani. Download it "
    "and give its path: --data FILE."
)
DEPTHS_CM = (5, 10, 20, 30, 40, 50, 60, 80, 100, 125, 150, 175, 200, 225)
COLUMNS = ["station", "time_cst", *(f"T{d}cm" for d in DEPTHS_CM)]
TIME_FORMAT = "%m/%d/%y %H:%M"
FEWEST_DAYS = 40


@dataclass
class Record:
    """Mean temperatures of a day, or of some hours.

    ``measured`` has NaN where less than half of a mean's values came, ``filled`` is
    interpolated in time there; both of shape (means, thermometers).
    """

    first_day: date
    depths: np.ndarray  # m
    measured: np.ndarray
    filled: np.ndarray
    gaps: str
    hours: int = 24

    def __len__(self) -> int:
        return len(self.measured)

    def day(self, index: int) -> date:
        """The date of a row."""
        return self.first_day + timedelta(hours=int(index) * self.hours)


@dataclass
class Runs:
    """Parts of the record, of one length: arrays of shape (times, runs, thermometers).

    Times are ``step`` days apart and hold the mean of the time between.
    """

    step: float
    first_rows: list[int]
    measured: np.ndarray
    filled: np.ndarray


def read_record(path: Path | str | None, hours: int = 24) -> Record:
    """Read the CSV file; errors say what came, what was wanted and what to do.

    ``hours`` is what one mean is of, a divisor of 24.
    """
    if path is None:
        raise SystemExit(f"soil: no data file was given. {ORIGIN}")
    if not Path(path).is_file():
        raise SystemExit(f"soil: there is no file {path}. {ORIGIN}")
    times, values = _read_rows(Path(path))
    return _means(times // hours, values, Path(path), hours)


def _read_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Hours (from the calendar's first day) and values of all rows, NaN where one is missing."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        missing = [c for c in COLUMNS if c not in header]
        if missing:
            raise SystemExit(
                f"soil: {path} lacks the columns {', '.join(missing)}: it has "
                f"{', '.join(header) or 'none'}, wanted {', '.join(COLUMNS)}. {ORIGIN}"
            )
        columns = [header.index(c) for c in COLUMNS[1:]]
        parsed = [
            _parse([row[c] for c in columns], number, path)
            for number, row in enumerate(rows, start=2)
            if len(row) >= len(COLUMNS)
        ]
    if not parsed:
        raise SystemExit(f"soil: {path} has the columns but no rows. {ORIGIN}")
    return np.array([p[0] for p in parsed]), np.array([p[1] for p in parsed])


def _parse(cells: list[str], number: int, path: Path) -> tuple[int, list[float]]:
    try:
        time = datetime.strptime(cells[0], TIME_FORMAT)
        hours = 24 * time.toordinal() + time.hour
        return hours, [float(c) if c.strip() else np.nan for c in cells[1:]]
    except ValueError as error:
        raise SystemExit(
            f"soil: line {number} of {path} cannot be read ({error}): wanted a time "
            f"such as 10/2/14 12:00 and temperatures in degrees Celsius. {ORIGIN}"
        ) from error


def _means(times: np.ndarray, values: np.ndarray, path: Path, hours: int) -> Record:
    first, n_means = int(times.min()), int(np.ptp(times)) + 1
    rows = np.bincount(times - first, minlength=n_means)
    usual = int(np.median(rows[rows > 0]))
    counts, sums = np.zeros((n_means, values.shape[1])), np.zeros((n_means, values.shape[1]))
    np.add.at(counts, times - first, np.isfinite(values))
    np.add.at(sums, times - first, np.nan_to_num(values))
    whole = slice(int(rows[0] < usual), n_means - int(rows[-1] < usual))
    enough = counts >= usual / 2
    means = np.where(enough, sums / np.maximum(counts, 1), np.nan)[whole]
    if len(means) * hours < FEWEST_DAYS * 24 or np.isnan(means).all(axis=0).any():
        raise SystemExit(
            f"soil: {path} has {len(means) * hours // 24} whole days and must have at "
            f"least {FEWEST_DAYS}, with values of every thermometer. {ORIGIN}"
        )
    return Record(
        first_day=date.fromordinal((first + whole.start) * hours // 24),
        depths=np.array(DEPTHS_CM) / 100,
        measured=means,
        filled=np.column_stack([fill_gaps(m) for m in means.T]),
        gaps=_gaps(values, rows, usual, means),
        hours=hours,
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


def cut_runs(record: Record, first_rows: list[int], n_rows: int, step: int) -> Runs:
    """Parts of ``n_rows`` rows that begin at the given ones, in means of ``step`` rows.

    The first entry is the first row alone, from which a run starts.
    """
    n_steps = (n_rows - 1) // step

    def means(table: np.ndarray, first: int) -> np.ndarray:
        rows = table[first + 1 : first + 1 + n_steps * step].reshape(n_steps, step, -1)
        known = np.isfinite(rows)
        sums = np.where(known, rows, 0).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.vstack([table[first], sums / known.sum(axis=1)])

    return Runs(
        step=step * record.hours / 24,
        first_rows=list(first_rows),
        measured=np.stack([means(record.measured, f) for f in first_rows], axis=1),
        filled=np.stack([means(record.filled, f) for f in first_rows], axis=1),
    )
