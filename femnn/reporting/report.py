"""One call that writes what was learned, and how far it may be believed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import firedrake as fd
import numpy as np
from mpi4py import MPI
from pyadjoint.tape import no_annotations

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.export.files import atomic_file
from femnn.export.plots import pyplot_for
from femnn.export.results import plain
from femnn.inference.posterior import LaplacePosterior
from femnn.inference.visited import Visited
from femnn.parallel import on_rank_zero
from femnn.reporting import contents, figures, page
from femnn.reporting.laws import lines_of, named_laws, visited_range
from femnn.training.result import FitResult


@no_annotations
def report(
    path: str | Path,
    laws: Any,
    data: Any = (),
    *,
    held_out: Any = (),
    truth: Mapping[str, Callable[..., Any]] | None = None,
    visited: Mapping[str, Any] | None = None,
    posterior: LaplacePosterior | None = None,
    result: FitResult | None = None,
    balances: Mapping[str, Mapping[str, Any]] | None = None,
    level: float = 0.9,
    title: str = "What was learned",
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> dict[str, Any]:
    """Write a page on a law: how it looks, how sure it is, and what speaks against it.  Collective.

    The page is one HTML file with its figures inside; beside it, with the suffix ``.json``, stand
    its numbers.  It begins with what is not as it should be: a misfit larger than the errors,
    residuals that are correlated, so that bands which assume independence are too narrow, held-out
    data that intervals do not cover, balances that do not close, points outside of what was
    visited.  Each file appears only when it is complete; rank 0 writes.

    Parameters
    ----------
    path
        The page, ``"output/law.html"``.
    laws
        A coefficient, or coefficients and networks by their names.
    data
        What was learned from: a pair of Observations and the model's values for them, as
        ``(data, observe.model)`` or without times ``(data, data.at(u))``, or a list of such pairs.
    held_out
        The same for data that were held out; a third entry is the standard deviation of the
        model's values, as ``posterior.predict`` gives it.
    truth
        True laws by the laws' names, where they are known: functions of one array of shape ``(n,)``
        for each input.
    visited
        Where laws were used, by their names: :class:`~femnn.Visited`, or ``(lower, upper)`` for
        each input.  By default the operands' present values.
    posterior
        Of :func:`femnn.laplace`, for bands and the spectrum.
    result
        Of :func:`femnn.fit`.
    balances
        Balances of mass or energy by their names, each a dictionary of forms without arguments and
        numbers whose sum should be zero.
    level
        Probability of the bands and of the intervals whose coverage is counted.
    title
        The page's.
    comm
        Ranks that call.

    Returns
    -------
    dict
        What the JSON file holds, on every rank: ``laws``, ``data``, ``held_out``, ``posterior``,
        ``training``, ``balances``, ``outside`` and ``findings``, a list of sentences.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If an argument is of another kind; nothing is written.
    ValueError
        If the path is none of an HTML file, a name is not a law's, a shape does not fit, or a
        network's range is not known; nothing is written.

    Notes
    -----
    Correlations of residuals are those of each reading with the next of its place, and of each
    station with the nearest one; correlated by r, as many data say as much as (1 - r) / (1 + r) of
    them would.

    Examples
    --------
    >>> report("output/kappa.html", kappa, (seen, seen.at(u)), posterior=posterior)
    """
    pyplot_for("report")
    path, known = _checked_path(path), named_laws(laws)
    truth, visited = contents.names_of(truth), contents.names_of(visited)
    _check(known, {"truth": truth, "visited": visited}, level)
    pairs = contents.pairs_of("data", data)
    tests = contents.pairs_of("held_out", held_out)
    content: dict[str, Any] = {"title": title, "level": level, "laws": {}, "outside": {}}
    for name, law in known.items():
        span = visited_range(name, law, visited.get(name))
        content["laws"][name] = lines_of(law, span, truth.get(name), posterior, level)
        if isinstance(visited.get(name), Visited) and isinstance(law, NeuralCoefficient):
            content["outside"][name] = visited[name].outside(law)
    content["data"] = [contents.of_data(*pair[:2]) for pair in pairs]
    content["held_out"] = [
        contents.of_held_out(pair[0], pair[1], pair[2] if len(pair) > 2 else None, level)
        for pair in tests
    ]
    content["posterior"] = None if posterior is None else contents.of_posterior(posterior)
    content["training"] = None if result is None else contents.of_training(result)
    balances = contents.names_of(balances)
    content["balances"] = {n: contents.of_balance(n, terms) for n, terms in balances.items()}
    content["findings"] = contents.findings(content)
    on_rank_zero(comm, _write, path, content, known, pairs)
    return content


def _checked_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"report got path={str(path)!r}: wanted that of a page, as in 'output/law.html'."
        )
    return path


def _check(laws: Mapping[str, Any], by_name: Mapping[str, Mapping], level: float) -> None:
    for what, given in by_name.items():
        unknown = [name for name in given if name not in laws]
        if unknown:
            raise ValueError(
                f"report: {what} has the name {unknown[0]!r}, the laws are {list(laws)}: give "
                "laws={name: kappa} with the same names."
            )
    if not 0 < level < 1:
        raise ValueError(f"report got level={level!r}: wanted a probability, such as 0.9.")


def _write(
    path: Path, content: dict[str, Any], laws: Mapping[str, Any], pairs: Sequence[tuple]
) -> None:
    """Make both files, and then give them their names."""
    numbers = json.dumps(plain("report", "the content", content), indent=1, allow_nan=False) + "\n"
    text = page.html(content["title"], _sections(content, laws, pairs))
    with atomic_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(numbers, encoding="utf-8")
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sections(
    content: dict[str, Any], laws: Mapping[str, Any], pairs: Sequence[tuple]
) -> list[tuple[str, list[str]]]:
    found = content["findings"]
    first = page.listed(found, "findings") if found else page.listed([NOTHING], "good")
    sections = [("What to look at", [first])]
    for name, law in laws.items():
        sections.append((f"Law: {name}", _of_law(name, law, content)))
    for (data, model, *_), known in zip(pairs, content["data"], strict=True):
        sections.append((f"Data: {known['name']}", _of_data(data, model, known)))
    sections += [(f"Held out: {h['name']}", [_scores(h["scores"])]) for h in content["held_out"]]
    if content["posterior"]:
        sections.append(("What data say beside the prior", _of_posterior(content["posterior"])))
    for name, balance in content["balances"].items():
        sections.append((f"Balance: {name}", _of_balance(balance)))
    if content["training"]:
        sections.append(("Training", _of_training(content["training"])))
    return sections


NO_NAME = re.compile(r"function_\d+")  # what Firedrake calls a Function without one
NOTHING = "Nothing that was looked at speaks against the law where it was visited."


def _of_law(name: str, law: Any, content: dict[str, Any]) -> list[str]:
    known, level = content["laws"][name], content["level"]
    pieces = [page.image(figures.of_law(name, known, _inputs(law, known), level), name)]
    if len(known["lines"]) > 1:
        pieces.append(page.text("Along each input, with the others amid their visited ranges."))
    if "error" in known:
        pieces.append(page.text(f"Error where it was visited: {known['error']:.2%} of the truth."))
    if "coverage" in known:
        share = f"The {level:.0%} band holds {known['coverage']:.0%} of the true law there."
        pieces.append(page.text(share))
    if name in content["outside"]:
        pieces.append(page.text(f"Points outside now: {content['outside'][name]:.1%}."))
    return pieces


def _inputs(law: Any, known: Mapping[str, Any]) -> list[str]:
    """Names of the inputs: those of scalar Functions, otherwise their numbers."""
    n = len(known["lines"])
    operands = law.operands if isinstance(law, NeuralCoefficient) else ()
    names = [o.name() if isinstance(o, fd.Function) else "" for o in operands]
    names = names if len(names) == n else [""] * n
    default = "input {}" if n > 1 else "input"
    return [
        default.format(i) if not name or NO_NAME.fullmatch(name) else name
        for i, name in enumerate(names)
    ]


def _of_data(data: Any, model: Any, known: Mapping[str, Any]) -> list[str]:
    model = np.asarray(model, dtype=float)
    line = (
        f"{known['n']} values, chi squared {known['chi_squared']:.3g} for each (1 within "
        f"{known['chi_squared_spread']:.2g} where the errors are right)."
    )
    figure = page.image(figures.of_data(data, model, known), known["name"])
    pieces = [page.text(line), figure, _scores(known["scores"])]
    if known["in_space"] and known["in_space"]["pairs"]:
        space = known["in_space"]
        pieces.append(
            page.text(
                f"Correlation of weighted residuals of neighbouring stations: {space['value']:.2f} "
                f"({space['pairs']} pairs)."
            )
        )
    return pieces


def _scores(known: Mapping[str, Any]) -> str:
    return page.table(known["rows"], known["columns"], known["units"])


def _of_posterior(known: Mapping[str, Any]) -> list[str]:
    n = len(known["spectrum"])
    line = (
        f"The data determine {known['effective_parameters']:.1f} of {n} parameters. Directions "
        "above one are known by data, those below by the prior."
    )
    return [page.text(line), page.image(figures.of_spectrum(known), "spectrum")]


def _of_balance(known: Mapping[str, Any]) -> list[str]:
    terms = {**known["terms"], "sum": known["sum"]}
    line = f"The sum is {known['relative']:.1e} of the largest term."
    return [page.table(list(terms), {"value": list(terms.values())}), page.text(line)]


def _of_training(known: Mapping[str, Any]) -> list[str]:
    line = f"{known['message']} {known['iterations']} iterations in {known['seconds']:.1f} s."
    solves = page.table(["runs"], {name: [n] for name, n in known["solves"].items()})
    pieces = [page.text(line), solves, page.image(figures.of_training(known), "loss")]
    if known["rejections"]:
        pieces.append(page.text(f"Rejected steps: {len(known['rejections'])}."))
    return pieces
