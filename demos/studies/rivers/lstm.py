"""An LSTM alone: flow at the gauges from the gauges above and the weather, in plain torch."""

import numpy as np
import torch
from torch import nn

from .data import ABOVE, River
from .judging import SIZE, Cutting


class Gauge(nn.Module):
    """Flow at a gauge: what comes from above and an LSTM's correction, or its output alone.

    Parameters
    ----------
    n
        Number of inputs.
    hidden
        Numbers that it remembers.
    size
        Of its output in m3/s.
    is_free
        Whether the flow is the LSTM's output alone.
    """

    def __init__(self, n: int, hidden: int, size: float, is_free: bool):
        super().__init__()
        self.memory = nn.LSTM(n, hidden, batch_first=True, dtype=torch.float64)
        self.out = nn.Linear(hidden, 1, dtype=torch.float64)
        self.size, self.is_free = size, is_free

    def forward(self, inputs: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        """Of inputs, shape ``(parts, days, n)``, and what comes from above, ``(parts, days)``."""
        found = self.size * self.out(self.memory(inputs)[0])[..., 0]
        return found if self.is_free else above + found


def features(river: River, number: int, name: str) -> np.ndarray:
    """Flows above, rain and evaporation between, of all days, shape ``(days, inputs)``."""
    flows = [river.filled[upper] for upper in ABOVE[name]]
    weather = [river.on_between(w)[number] for w in (river.rain, river.evaporation)]
    scaled = [flow / 100 for flow in flows] + [np.log(np.maximum(flow, 0.1)) / 3 for flow in flows]
    return np.stack([*scaled, np.log1p(weather[0]) / 1.5, weather[1] / 2], -1)


def alone(
    cutting: Cutting,
    fitted: tuple[int, int],
    until: int,
    is_free: bool = True,
    hidden: int = 16,
    iterations: int = 300,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Series of all days from the first fitted one to the end of a year, by gauge.

    Trained on the same parts, with the same loss; each gauge has a network of its own.
    """
    river, found = cutting.river, {}
    for number, name in enumerate(ABOVE):
        inputs = features(river, number, name)
        torch.manual_seed(seed)
        net = Gauge(inputs.shape[1], hidden, 100.0 if is_free else 10.0, is_free)
        rows = cutting.rows(*fitted)
        _train(net, *_tensors(cutting, name, inputs, rows), SIZE[name], iterations)
        rows = cutting.rows(fitted[0], until)
        with torch.no_grad():
            model = net(*_tensors(cutting, name, inputs, rows)[:2])[:, cutting.history :]
        found[name] = cutting.series(rows, model.numpy(), fitted[0])
    return found


def _tensors(cutting: Cutting, name: str, inputs: np.ndarray, rows: np.ndarray) -> tuple:
    """Inputs and what comes from above with the days before, and what was measured."""
    river = cutting.river
    days = np.maximum(rows[:, :1] + np.arange(-cutting.history, cutting.days), 0)
    above = np.sum([river.filled[upper] for upper in ABOVE[name]], 0)
    measured = river.flow[name][rows].copy()
    measured[:, : cutting.warm_up] = np.nan
    return torch.tensor(inputs[days]), torch.tensor(above[days]), torch.tensor(measured)


def _train(
    net: Gauge,
    inputs: torch.Tensor,
    above: torch.Tensor,
    measured: torch.Tensor,
    size: float,
    iterations: int,
) -> None:
    known = torch.isfinite(measured)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    history = inputs.shape[1] - measured.shape[1]
    for _ in range(iterations):
        optimiser.zero_grad()
        error = (net(inputs, above)[:, history:] - measured)[known] / size
        error.square().mean().backward()
        optimiser.step()
        schedule.step()
