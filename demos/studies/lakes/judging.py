"""How the record is cut, and how laws are judged."""

from dataclasses import dataclass

import numpy as np

from demos.studies.common import rms_of_known

from .data import Lake
from .laws import DrawnLaw, Law
from .model import Columns


@dataclass
class Years:
    """How a lake's record is cut."""

    lake: Lake
    fitted: tuple[int, int]
    held_out: tuple[int, int]
    part: int  # days in a part that is fitted
    every: int  # days between the data that are fitted
    spacing: float = 1.0
    season: tuple[int, int] = (1, 12)  # the months, of each year

    def season_of(self, year: int) -> tuple[int, int]:
        """The first and the last row of a year's season."""
        rows = np.flatnonzero((self.lake.years == year) & self.in_season)
        return int(rows[0]), int(rows[-1])

    @property
    def in_season(self) -> np.ndarray:
        """Whether a day is in the months that count."""
        return (self.lake.months >= self.season[0]) & (self.lake.months <= self.season[1])

    def parts(self, first: int, last: int) -> list[tuple[int, int]]:
        """Parts of a season's length or less, of the years from the first to the last."""
        found = []
        for year in range(first, last + 1):
            begin, end = self.season_of(year)
            n = max(1, round((end - begin) / self.part))
            cuts = np.linspace(begin, end, n + 1).astype(int)
            found += zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        return found

    def training(self, law: Law, first: int, last: int) -> Columns:
        return Columns(self.lake, law, self.parts(first, last), self.every, self.spacing)

    def runs(self, first: int, last: int) -> list[tuple[int, int]]:
        """The years in one run; where seasons are cut out a run for each year."""
        if self.season == (1, 12):
            return [(self.season_of(first)[0], self.season_of(last)[1])]
        return [self.season_of(year) for year in range(first, last + 1)]

    def judging(self, law: Law, *years: tuple[int, int]) -> Columns:
        rows = [run for pair in years for run in self.runs(*pair)]
        return Columns(self.lake, law, rows, 1, self.spacing)


def year_error(years: Years, law: Law, year: int) -> float:
    """RMSE of one year, run from its first profile."""
    return rms_of_known(
        Columns(years.lake, law, [years.season_of(year)], 1, years.spacing).errors()
    )


def judge(years: Years, row: dict) -> None:
    """Errors of a law in the fitted and the held-out years."""
    columns = years.judging(row["law"], years.fitted, years.held_out)
    errors = columns.errors()
    n = len(years.runs(*years.fitted))
    row["errors"] = errors[:, n:]
    row["fitted"], row["held_out"] = rms_of_known(errors[:, :n]), rms_of_known(errors[:, n:])
    row["held_out_by_depth"] = np.sqrt(np.nanmean(errors[:, n:] ** 2, axis=(0, 1))).tolist()
    row["held_out_by_month"] = by_month(columns, errors, n)
    row["held_out_bias_by_depth"] = np.nanmean(errors[:, n:], axis=(0, 1)).tolist()
    row["fields"] = [columns.T]
    print(f"fitted {row['fitted']:.3f}, held out {row['held_out']:.3f} deg C", flush=True)


def by_month(columns: Columns, errors: np.ndarray, n: int) -> dict[str, float]:
    """RMSE of each month of the columns from the n-th on."""
    months = columns.lake.months
    squares: dict[int, list] = {}
    for (first, last), column in zip(columns.rows[n:], np.moveaxis(errors, 1, 0)[n:], strict=True):
        for day, values in enumerate(column[: last - first + 1]):
            squares.setdefault(int(months[first + day]), []).extend(values**2)
    return {str(m): float(np.sqrt(np.nanmean(squares[m]))) for m in sorted(squares)}


def without_a_model(years: Years) -> dict:
    """The mean of the day of the year at each depth (and a week around it), and one temperature."""
    lake, days = years.lake, day_of_year(years.lake.days)
    fitted, held_out = (
        years.in_season & (lake.years >= a) & (lake.years <= b)
        for a, b in (years.fitted, years.held_out)
    )
    means = np.full((367, len(lake.depths)), np.nan)
    for day in range(1, 367):
        near = fitted & (np.abs((days - day + 183) % 366 - 183) <= 7)
        if near.any():
            means[day] = np.nanmean(lake.measured[near], axis=0)
    models = {"day of the year": means[days], "as warm as the top": lake.measured[:, :1]}
    return {
        name: {
            part: rms_of_known((values - lake.measured)[which, 1:])
            for part, which in (("fitted", fitted), ("held_out", held_out))
        }
        for name, values in models.items()
    }


def day_of_year(days: np.ndarray) -> np.ndarray:
    return (days - days.astype("datetime64[Y]")).astype(int) + 1


def band(years: Years, row: dict, draws: int) -> dict:
    """How sure the network's prediction of the held-out years is, and how often it is right.

    By runs with laws that are drawn from the posterior, from each year's first profile on: runs are
    far from linear in the law where the water is just about to overturn.
    """
    first, last = years.held_out
    rows = [years.season_of(year) for year in range(first, last + 1)]
    law, posterior = DrawnLaw(row["law"]), row["posterior"]
    columns = Columns(years.lake, law, rows, 1, years.spacing)
    columns.noise.assign(row["noise"])
    model = columns.simulate()
    squares = np.zeros(model.shape)
    for weights in posterior.sample(draws, seed=1):
        law.take(weights - posterior.mean)
        squares += (columns.simulate() - model) ** 2 / draws
    std = np.sqrt(squares)
    scores = columns.data.scores(model, std=std)
    alone = columns.data.scores(model, std=0.0)
    return {
        "std": rms_of_known(std),
        "noise alone": alone["coverage of 90%", "all"],
        "table": std,
        "model": model,
        "rows": rows,
    } | {name: scores[name, "all"] for name in scores}
