"""What every problem of the published set has: settings, a run, a figure, a report.

A problem is a module with

- ``NAME`` and ``TITLE``;
- ``SETTINGS``: for each of ``paper``, ``short`` and ``reduced`` a dataclass;
- ``run(settings)``: solves it by all methods, returns what JSON can hold;
- ``figure(results)``: a matplotlib figure of what ``run`` returned;
- ``report(results)``: the same in Markdown.

``main(module)`` is its command line.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import torch
from PIL import Image

from benchmarks.published.methods import OURS, THEIRS
from benchmarks.published.training import Timer
from demos.studies import common  # noqa: F401 (its options for figures and for PETSc)
from femnn.atomic import atomic_file

COLUMNS = {
    "k_error": ("error of k", ".2%"),
    "u_error": ("error of u", ".3%"),
    "loss": ("loss", ".2e"),
    "iterations": ("iterations", "d"),
    "evaluations": ("evaluations", "d"),
    "seconds": ("training, s", ".1f"),
    "setup": ("set-up, s", ".1f"),
}


def main(problem: ModuleType, argv: list[str] | None = None) -> dict:
    """Run one problem; writes results.json and figure.png, prints the report."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.published.{problem.NAME}",
        description=(problem.__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--setting", choices=sorted(problem.SETTINGS), default="short")
    output = Path("output") / "published" / problem.NAME
    parser.add_argument("--output", type=Path, default=output, help="folder for the results")
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    results = run(problem, chosen.setting)
    write(problem, results, chosen.output)
    print(f"{problem.TITLE}\n\n{problem.report(results)}", flush=True)
    return results


def run(problem: ModuleType, setting: str) -> dict:
    """The results of a problem with one of its settings, which they hold beside the paper's."""
    timer = Timer()
    settings, paper = problem.SETTINGS[setting], problem.SETTINGS["paper"]
    results = problem.run(settings)
    described = {"setting": setting, "settings": asdict(settings), "paper": asdict(paper)}
    return {**described, **results, "total_seconds": timer.seconds()}


def write(problem: ModuleType, results: dict, folder: Path) -> None:
    """Write results.json and figure.png."""
    with atomic_file(folder / "results.json") as path:
        path.write_text(json.dumps(results, indent=1) + "\n")
    write_figure(problem, results, folder / "figure.png")


def write_figure(problem: ModuleType, results: dict, path: Path) -> None:
    """Draw a problem's results."""
    figure = problem.figure(results)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=90)
        with Image.open(temporary) as image:  # 256 colours: a third of the size
            few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(temporary, optimize=True)
    plt.close(figure)


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(header)]
    lines += [["---"] * len(lines[0])]
    lines += [list(row) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def method_table(rows: dict[str, dict], columns: dict[str, tuple[str, str]] = COLUMNS) -> str:
    """A Markdown table of trainings: one line for each, with errors, cost and time."""
    body = (
        [name, *(format(r[key], f) if key in r else "-" for key, (_, f) in columns.items())]
        for name, r in rows.items()
    )
    return table(["method", *(head for head, _ in columns.values())], body)


def settings_table(results: dict, source: str = "the paper") -> str:
    """The settings that differ from the source's; the rest are the source's."""
    used, paper = results["settings"], results["paper"]
    differ = [(k, _shown(used[k]), _shown(paper[k])) for k in used if used[k] != paper[k]]
    if not differ:
        return f"All settings are {source}'s."
    rows = [(key.replace("_", " "), *values) for key, *values in differ]
    head = ["setting", "here", source.removeprefix("the ")]
    return f"{table(head, rows)}\n\nAll other settings are {source}'s."


def _shown(value) -> str:
    if value is None:
        return "no limit"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def agreement(rows: dict[str, dict], tolerance: float = 1e-6) -> int:
    """Number of iterations over which the two methods' losses agree, relative to themselves."""
    histories = (rows[name]["history"] for name in (OURS, THEIRS))
    same = [abs(a / b - 1) <= tolerance for a, b in zip(*histories, strict=False)]
    return [*same, False].index(False) - 1


def verdict(
    cases: dict[str, dict[str, dict]],
    errors: Iterable[str] = ("k_error", "u_error"),
    columns: dict[str, tuple[str, str]] = COLUMNS,
) -> str:
    """What side-by-side trainings show: speed, agreement, and where femnn is not better."""
    speeds, lines = [], []
    for case, rows in cases.items():
        ours, theirs = rows[OURS], rows[THEIRS]
        each = [r["seconds"] / r["evaluations"] for r in (theirs, ours)]
        speeds.append(each[0] / each[1])
        worse = [columns[e][0] for e in errors if ours[e] > 1.02 * theirs[e]]
        if worse:
            lines.append(f"{case}: {' and '.join(worse)}")
    same = min(agreement(rows) for rows in cases.values())
    span = f"{min(speeds):.1f} to {max(speeds):.1f}" if len(speeds) > 1 else f"{speeds[0]:.1f}"
    text = (
        f"The network in UFL takes {span} times as long for a value with its gradient. The two "
        f"losses agree to 1e-6 of themselves over the first {same} iterations: both methods "
        "compute the same function."
    )
    if any(agreement(rows) < rows[OURS]["iterations"] for rows in cases.values()):
        text += " Then rounding, which L-BFGS amplifies, sets them apart."
    if lines:
        text += (
            f" At equal iterations femnn ends with an error larger by more than 2 % of it in "
            f"{'; '.join(lines)}: no property of either method, but of the path that rounding "
            "has chosen."
        )
    return text
