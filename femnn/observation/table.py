"""A small table of numbers with named rows and columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from femnn.observation.optional import imported


class Table(Mapping):
    """Columns of numbers, a row for each place.

    ``table["rmse"]`` is a column, ``table["rmse", "north"]`` a number; ``print`` shows all.

    Parameters
    ----------
    columns
        Name to numbers, each of shape ``(n_rows,)``.
    rows
        The rows' names.
    units
        Column to unit, where it has one.
    title
        What the table is about.

    Attributes
    ----------
    rows : list of str
        The rows' names.
    units : dict
        Column to unit.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        rows: Sequence[str],
        units: Mapping[str, str] | None = None,
        title: str = "",
    ):
        self._columns = {name: np.asarray(column) for name, column in columns.items()}
        self.rows, self.units, self.title = list(rows), dict(units or {}), title

    def __getitem__(self, key: str | tuple[str, str]) -> Any:
        """A column, shape ``(n_rows,)``, or with a row's name a number."""
        if isinstance(key, tuple):
            column, row = key
            if row not in self.rows:
                raise KeyError(f"there is no row {row!r}: the rows are {self.rows}.")
            return self[column][self.rows.index(row)].item()
        if key not in self._columns:
            raise KeyError(f"there is no column {key!r}: the columns are {list(self._columns)}.")
        return self._columns[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __str__(self) -> str:
        heads = [f"{n} [{self.units[n]}]" if n in self.units else n for n in self]
        cells = [[head, *map(_shown, self[name])] for head, name in zip(heads, self, strict=True)]
        columns = [[self.title, *self.rows], *cells]
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in zip(*columns, strict=True)
        ]
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def to_pandas(self) -> Any:
        """The same as a pandas table, whose ``attrs`` has the units.

        Returns
        -------
        pandas.DataFrame
            Its index has the rows' names.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        pandas = imported("pandas", "Table.to_pandas")
        frame = pandas.DataFrame(self._columns, index=self.rows)
        frame.attrs["units"] = dict(self.units)
        return frame


def _shown(number: Any) -> str:
    if isinstance(number, (int, np.integer)):
        return str(number)
    return "-" if np.isnan(number) else f"{number:.4g}"
