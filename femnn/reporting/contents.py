"""What a report says: numbers and findings, as JSON can hold them.  Collective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ufl

from femnn.coefficient.assembly import assemble
from femnn.inference.posterior import LaplacePosterior
from femnn.observation.observations import Observations
from femnn.observation.stations import Stations
from femnn.observation.table import Table
from femnn.reporting.residuals import Correlation, by_place, in_space, in_time
from femnn.training.result import FitResult

CLOSED = 1e-6  # the sum of a balance, relative to its largest term
FAR = 0.1  # standard deviations from the minimum


def pairs_of(what: str, given: Any) -> list[tuple[Any, ...]]:
    """Observations with a model's values for them; one pair or a list of pairs.

    Raises
    ------
    TypeError
        If they are none.
    """
    is_one = isinstance(given, tuple) and given and isinstance(given[0], Observations)
    pairs = [given] if is_one else list(given)
    for pair in pairs:
        is_pair = isinstance(pair, tuple) and len(pair) in (2, 3)
        if not is_pair or not isinstance(pair[0], Observations):
            raise TypeError(
                f"report got {what} with a {type(pair).__name__}: wanted pairs of Observations and "
                "the model's values, (data, observe.model), or (data, data.at(u)) without times."
            )
    return pairs


def of_data(data: Observations, model: Any) -> dict[str, Any]:
    """How the data are met: chi squared, by place, in time and in space."""
    model = np.asarray(model, dtype=float)
    residuals = data.residuals(model)
    rows = residuals if data.times is not None else residuals[None]
    n = len(data)
    found: dict[str, Any] = {
        "name": data.name or "observed",
        "units": data.units,
        "n": n,
        "chi_squared": float(np.nansum(residuals**2) / n),
        "chi_squared_spread": float(np.sqrt(2 / n)),
        "names": list(data.names),
        "by_place": by_place(rows),
        "scores": of_table(data.scores(model)),
        "in_time": [],
        "in_space": None,
    }
    if data.times is not None:
        found["in_time"] = [_shown(c) for c in in_time(rows.reshape(len(rows), -1))]
    if isinstance(data.at, Stations):
        found["in_space"] = _shown(in_space(rows, data.at.points))
    return found


def of_held_out(data: Observations, model: Any, std: Any, level: float) -> dict[str, Any]:
    """Scores of data that were held out."""
    table = data.scores(np.asarray(model, dtype=float), std=std, level=level)
    return {"name": data.name or "observed", "scores": of_table(table)}


def of_table(table: Table) -> dict[str, Any]:
    """A table as JSON can hold it."""
    return {"rows": table.rows, "units": table.units, "columns": dict(table)}


def of_posterior(posterior: LaplacePosterior) -> dict[str, Any]:
    """Spectrum, effective parameters and how far the minimum is."""
    return {
        "spectrum": posterior.spectrum,
        "effective_parameters": posterior.effective_parameters,
        "chi_squared": posterior.chi_squared,
        "distance": posterior.distance,
        "n_data": posterior.n_data,
    }


def of_training(result: FitResult) -> dict[str, Any]:
    """What a training did."""
    return {
        "message": result.message,
        "success": result.success,
        "loss": [step.loss for step in result.history],
        "iterations": result.iterations,
        "solves": vars(result.solves),
        "rejections": [r.reason for r in result.rejections],
        "seconds": result.seconds,
    }


def of_balance(name: str, terms: Mapping[str, Any]) -> dict[str, Any]:
    """A balance whose terms should add up to zero.  Collective.

    Raises
    ------
    TypeError
        If terms are no forms and numbers by their names.
    """
    if not isinstance(terms, Mapping) or not terms:
        raise TypeError(
            f"report: balances[{name!r}] is a {type(terms).__name__}: wanted a dictionary of forms "
            "and numbers by their names that add up to zero, such as {'inflow': g * ds(1), "
            "'outflow': -q * ds(2)}."
        )
    values = {}
    for term, form in terms.items():
        value = assemble(form) if isinstance(form, ufl.BaseForm) else form
        try:
            values[term] = float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"report: the term {term!r} of balances[{name!r}] is a {type(form).__name__}: "
                "wanted a form without arguments, or a number."
            ) from None
    largest = max(abs(value) for value in values.values())
    total = sum(values.values())
    return {"terms": values, "sum": total, "relative": abs(total) / largest if largest else 0.0}


def findings(content: Mapping[str, Any]) -> list[str]:
    """Sentences on what is not as it should be."""
    found: list[str] = []
    for data in content["data"]:
        found += _of_misfit(data)
    level = content["level"]
    for held_out in content["held_out"]:
        found += _of_coverage(held_out, level)
    posterior, training = content["posterior"], content["training"]
    if posterior and content["data"] and _are_others(content["data"], posterior):
        found.append(
            "The model's values are not those at the posterior's mean: solve the model again after "
            "the fit, and take them then."
        )
    if posterior and posterior["distance"] > FAR:
        found.append(
            f"The minimum is about {posterior['distance']:.2g} posterior standard deviations away: "
            "bands are of a point that is not the most probable one. Go on with the fit."
        )
    if training and not training["success"]:
        found.append(f"The training has not converged: {training['message']}")
    for name, balance in content["balances"].items():
        if balance["relative"] > CLOSED:
            found.append(
                f"The balance of {name} does not close: its terms add up to {balance['sum']:.3g}, "
                f"{balance['relative']:.1e} of the largest."
            )
    for name, part in content["outside"].items():
        if part > 0:
            found.append(
                f"{part:.1%} of the points at which {name} is evaluated now are outside of what "
                "was visited in training: there it is a guess."
            )
    return found


def _are_others(data: Sequence[Mapping[str, Any]], posterior: Mapping[str, Any]) -> bool:
    """Whether residuals are others than the posterior's, of as many data."""
    n = sum(d["n"] for d in data)
    squares = sum(d["n"] * d["chi_squared"] for d in data)
    return n == posterior["n_data"] and not np.isclose(squares / n, posterior["chi_squared"], 0.01)


def _of_misfit(data: Mapping[str, Any]) -> list[str]:
    found, name = [], data["name"]
    excess, spread = data["chi_squared"] - 1, data["chi_squared_spread"]
    if excess > 3 * spread:
        found.append(
            f"{name}: chi squared is {data['chi_squared']:.3g} for each datum, more than errors "
            "explain: the model lacks something, or the standard deviations are too small."
        )
    elif excess < -5 * spread:
        found.append(
            f"{name}: chi squared is {data['chi_squared']:.3g} for each datum, less than errors "
            "make: the standard deviations are too large, or the law follows the noise."
        )
    first = data["in_time"][0] if data["in_time"] else None
    for where, known in (("in time", first), ("between neighbouring places", data["in_space"])):
        if known and known["is_there"]:
            found.append(
                f"{name}: residuals are correlated {where} ({known['value']:.2f} of "
                f"{known['pairs']} neighbours). Bands that assume independent errors are too "
                f"narrow then, by about a factor of {known['widening']:.2g}."
                + (" Give Observations(correlation=...)." if where == "in time" else "")
            )
    return found


def _of_coverage(held_out: Mapping[str, Any], level: float) -> list[str]:
    columns, rows = held_out["scores"]["columns"], held_out["scores"]["rows"]
    name = f"coverage of {level:.0%}"
    if name not in columns:
        return []
    last = rows.index("all")
    covered, n = float(columns[name][last]), int(columns["n"][last])
    if covered >= level - 3 * np.sqrt(level * (1 - level) / n):
        return []
    return [
        f"{held_out['name']}, held out: {covered:.0%} of the data are in intervals that should "
        f"hold {level:.0%}: the predictions are surer than they may be."
    ]


def _shown(known: Correlation) -> dict[str, Any]:
    return {
        "value": known.value,
        "pairs": known.pairs,
        "is_there": known.is_there,
        "widening": known.widening,
    }


def names_of(given: Sequence[Any] | Mapping[str, Any] | None) -> dict[str, Any]:
    """A dictionary, empty where nothing was given."""
    return dict(given or {})
