"""Laws as lines: each input through its visited range, with bands and the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.evaluation.arrays import evaluate
from femnn.inference.posterior import LaplacePosterior
from femnn.inference.visited import Visited

POINTS = 201
MARGIN = 0.1  # of the visited range, drawn on both sides of it


def named_laws(laws: Any) -> dict[str, Any]:
    """Laws by their names.

    Raises
    ------
    TypeError
        If one is neither a coefficient nor a network.
    """
    if isinstance(laws, NeuralCoefficient):
        laws = {laws.name(): laws}
    if not isinstance(laws, Mapping):
        raise TypeError(
            f"report: laws is a {type(laws).__name__}: wanted a coefficient, or a dictionary of "
            "coefficients and networks by their names, such as {'kappa': kappa}."
        )
    for name, law in laws.items():
        if not isinstance(law, (NeuralCoefficient, torch.nn.Module)):
            raise TypeError(
                f"report: laws[{name!r}] is a {type(law).__name__}: wanted a NeuralCoefficient, or "
                "a network together with visited={...}."
            )
    return dict(laws)


def visited_range(name: str, law: Any, visited: Any) -> np.ndarray:
    """The range of each input, shape ``(n_inputs, 2)``.  Collective where a coefficient's.

    Raises
    ------
    ValueError
        If none is known.
    """
    if visited is None and isinstance(law, NeuralCoefficient):
        return law.visited()
    if visited is None:
        raise ValueError(
            f"report: laws[{name!r}] is a network, whose range is not known: give "
            f"visited={{{name!r}: (lower, upper)}}, or femnn.Visited(kappa) of a coefficient."
        )
    return np.atleast_2d(visited.range if isinstance(visited, Visited) else visited).astype(float)


def lines_of(
    law: Any,
    visited: np.ndarray,
    truth: Callable[..., Any] | None,
    posterior: LaplacePosterior | None,
    level: float,
) -> dict[str, Any]:
    """The values of a law of which one input at a time changes, the others amid their ranges.

    Parameters
    ----------
    law
        A coefficient or a network.
    visited
        The range of each input, shape ``(n_inputs, 2)``.
    truth
        The true law, a function of as many arrays.
    posterior
        Whose band is wanted.
    level
        The band's probability.

    Returns
    -------
    dict
        What JSON can hold: ``visited``, ``lines``, one for each input, with ``x``, ``value`` and
        where they are known ``lower``, ``upper`` and ``truth``, arrays of shape ``(n,)``, of laws
        with several outputs ``(n, n_outputs)``; ``error`` and ``coverage`` in the visited range.
    """
    lines = []
    for i, (lower, upper) in enumerate(visited):
        margin = MARGIN * (upper - lower) or MARGIN * max(abs(upper), 1.0)
        x = np.linspace(lower - margin, upper + margin, POINTS)
        inputs = [x if j == i else np.full_like(x, r.mean()) for j, r in enumerate(visited)]
        lines.append(_line(x, inputs, law, truth, posterior, level))
    found = {"visited": visited, "lines": lines}
    return found | _compared(lines, visited)


def _line(
    x: np.ndarray,
    inputs: list[np.ndarray],
    law: Any,
    truth: Callable[..., Any] | None,
    posterior: LaplacePosterior | None,
    level: float,
) -> dict[str, Any]:
    line: dict[str, Any] = {"x": x}
    if posterior is None:
        net = law.net if isinstance(law, NeuralCoefficient) else law
        line["value"] = np.asarray(evaluate(net, *inputs), dtype=float)
    else:
        known = posterior.law(law, *inputs)
        line["value"] = known.mean
        line["lower"], line["upper"] = known.interval(level)
    if truth is not None:
        line["truth"] = _true_values(truth, inputs, line["value"].shape)
    return line


def _true_values(
    truth: Callable[..., Any], inputs: list[np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    values = np.asarray(truth(*inputs), dtype=float)
    if values.shape not in ((), shape):
        raise ValueError(
            f"report: a truth gives values of shape {values.shape}: wanted {shape}, as the law "
            "does: a function of one array for each input."
        )
    return np.broadcast_to(values, shape)


def _compared(lines: list[dict[str, Any]], visited: np.ndarray) -> dict[str, float]:
    """The law's relative error, and how much of the truth is in the band, where it was visited."""
    if "truth" not in lines[0]:
        return {}
    within = [
        (line["x"] >= lower) & (line["x"] <= upper)
        for line, (lower, upper) in zip(lines, visited, strict=True)
    ]
    pairs = list(zip(lines, within, strict=True))
    value = np.concatenate([line["value"][w].ravel() for line, w in pairs])
    known = np.concatenate([line["truth"][w].ravel() for line, w in pairs])
    result = {"error": float(np.linalg.norm(value - known) / np.linalg.norm(known))}
    if "lower" in lines[0]:
        inside = [
            (line["lower"][w] <= line["truth"][w]) & (line["truth"][w] <= line["upper"][w])
            for line, w in pairs
        ]
        result["coverage"] = float(np.mean(np.concatenate([i.ravel() for i in inside])))
    return result
