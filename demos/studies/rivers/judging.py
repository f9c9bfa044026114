"""How the record is cut into parts, and how models are judged."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from .data import ABOVE, OUTER, River
from .laws import FlowLaw, Runoff
from .model import Rivers
from .tree import Tree

WHOLE = ("Bewdley", "Saxons Lode")  # where flow is given beside the inlets, as for the baselines
SIZE = {"Bewdley": 6.0, "Saxons Lode": 12.0, "Haw Bridge": 13.0}  # m3/s, of errors by lags


@dataclass
class Cutting:
    """How a record is cut into parts that stand side by side.

    Parameters
    ----------
    river
        The record.
    days
        In a part.
    warm_up
        Its first days, which do not count.
    history
        Days before it that the recurrent network sees.
    spacing
        Of the tree's nodes, in m.
    steps
        Of the model in a day.
    """

    river: River
    days: int = 32
    warm_up: int = 6
    history: int = 150
    spacing: float = 9000.0
    steps: int = 1

    def rows(self, first: int, last: int) -> np.ndarray:
        """The days of parts that cover years, shape ``(parts, days)``.

        The first days of the record only warm up; the last part may overlap the one before.
        """
        wanted = np.flatnonzero((self.river.years >= first) & (self.river.years <= last))
        begin, end = max(wanted[0] - self.warm_up, 0), wanted[-1] + 1 - self.days
        starts = np.arange(begin, end, self.days - self.warm_up)
        return np.r_[starts, end][:, None] + np.arange(self.days)

    def inputs(self, rows: np.ndarray, cut: tuple[str, ...] = WHOLE) -> np.ndarray:
        """What the recurrent network sees: an area's rain and evaporation, and how wet it is.

        The latter from the runoff above it, at the nearest gauges whose flow is given, and from
        that of the three outer catchments, the same for all areas.
        """
        river = self.river
        rain, evaporation = (river.on_between(w) for w in (river.rain, river.evaporation))
        seen = [np.log1p(rain) / 1.5, evaporation / 2, _log(river.from_above(cut))]
        for name in OUTER:
            depth = river.filled[name] * 86.4 / river.area[name]
            seen.append(np.broadcast_to(_log(depth), rain.shape))
        days = np.maximum(rows[:, :1] + np.arange(-self.history, self.days), 0)
        return np.stack(seen, -1)[:, days]

    def model(
        self,
        law: FlowLaw,
        runoff: nn.Module | None,
        rows: np.ndarray,
        cut: tuple[str, ...] = WHOLE,
    ) -> Rivers:
        """The model of parts, with the measured flow at gauges where the tree is cut."""
        tree = Tree(self.river.reaches(), self.spacing, cut)
        inflow = {name: self.river.filled[name][rows] for name in tree.inlets}
        return Rivers(tree, law, inflow, runoff, self.river.between, self.steps)

    def seeing(self, runoff: Runoff, rows: np.ndarray, cut: tuple[str, ...] = WHOLE) -> Runoff:
        """The same network for other days."""
        other = Runoff(self.inputs(rows, cut), self.history, runoff.memory.hidden_size)
        other.load_state_dict(runoff.state_dict())
        return other

    def measured(self, rows: np.ndarray, outlets: Collection[str]) -> np.ndarray:
        """Shape ``(parts, outlets, days)``."""
        return np.stack([self.river.flow[name][rows] for name in outlets], 1)

    def series(self, rows: np.ndarray, values: np.ndarray, first: int) -> np.ndarray:
        """Values in parts, shape ``(parts, ..., days)``, as a series of all days, NaN elsewhere.

        ``first`` is the year before which nothing counts.
        """
        found = np.full((*values.shape[1:-1], len(self.river)), np.nan)
        for days, part in zip(rows, values, strict=True):
            found[..., days[self.warm_up :]] = part[..., self.warm_up :]
        found[..., self.river.years < first] = np.nan
        return found


def _log(depth: np.ndarray) -> np.ndarray:
    """The logarithm of a runoff in mm/day, of a thousandth where there is less."""
    return np.log(np.maximum(depth, 1e-3))


def rmse(model: np.ndarray, measured: np.ndarray) -> float:
    """Root mean square error where both are there."""
    return float(np.sqrt(np.nanmean((model - measured) ** 2)))


def within(river: River, years: Sequence[int]) -> np.ndarray:
    """Which days are in years from a first one to a last one, shape ``(days,)``."""
    return (river.years >= years[0]) & (river.years <= years[1])


def lags(river: River, fitted: np.ndarray, n: int = 6) -> dict[str, np.ndarray]:
    """Flow at the gauges, linear in that of the gauges above on the same and the last days.

    Parameters
    ----------
    fitted
        Which days are fitted by least squares, shape ``(days,)``.
    n
        How many days count.
    """
    found = {}
    for name, uppers in ABOVE.items():
        rows = np.maximum(np.arange(len(river))[:, None] - np.arange(n), 0)
        inputs = np.concatenate([river.filled[upper][rows] for upper in uppers], 1)
        known = fitted & np.isfinite(river.flow[name])
        weights = np.linalg.lstsq(inputs[known], river.flow[name][known], rcond=None)[0]
        found[name] = inputs @ weights
    return found


def same_day(river: River) -> dict[str, np.ndarray]:
    """The sum of what is measured above on the same day."""
    return {name: np.sum([river.filled[u] for u in uppers], 0) for name, uppers in ABOVE.items()}
