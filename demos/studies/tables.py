"""Reading the records of the studies: tables with a header, and what fills their gaps."""

import csv
from pathlib import Path

import numpy as np


def read_columns(
    study: str, path: Path, wanted: tuple[str, ...], origin: str
) -> dict[str, list[str]]:
    """The columns of a CSV table as texts, by their names in its header.

    Errors say which study, what is missing, and where the record comes from.
    """
    if not path.is_file():
        raise SystemExit(f"{study}: there is no file {path}. {origin}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0]) if rows else []
    missing = [c for c in wanted if c not in names]
    if missing:
        raise SystemExit(
            f"{study}: {path} lacks the columns {', '.join(missing)}: it has "
            f"{', '.join(names) or 'no rows'}, wanted {', '.join(wanted)}. {origin}"
        )
    return {c: [row[c] or "" for row in rows] for c in names}


def fill_gaps(values: np.ndarray) -> np.ndarray:
    """A series, linear between its neighbours where a value is missing."""
    rows, known = np.arange(len(values)), np.isfinite(values)
    return np.interp(rows, rows[known], values[known])
