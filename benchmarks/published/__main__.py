"""Solve the published problems and write docs/reproduction.md: ``make reproduce``.

Each problem runs in a process of its own that starts with empty kernel caches, so that its
set-up times are those of a first run.  Results are kept: single problems can be run again, and
a section of the document whose problem has no results here stays as it is.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from benchmarks.problem import empty_caches
from benchmarks.published import framework
from femnn.atomic import atomic_file

PROBLEMS = {
    module.NAME: module
    for module in map(
        importlib.import_module,
        (
            "benchmarks.published.convergence",
            "benchmarks.published.noise",
            "benchmarks.published.partial_observation",
            "benchmarks.published.calderon",
            "benchmarks.published.heat",
            "benchmarks.published.heat_discontinuous",
            "benchmarks.published.advection_diffusion",
            "benchmarks.published.reaction_rates",
            "benchmarks.published.monodomain",
        ),
    )
}
RESULTS = Path("output/published")
DOCUMENT = Path("docs/reproduction.md")
FIGURES = Path("docs/figures")

PREFACE = """# The published set, reproduced

Written by `make reproduce`; every number is from its run. The problems, networks and settings
are those of S. K. Mitusch, S. W. Funke, M. Kuchta, *Hybrid FEM-NN models*, J. Comput. Phys. 446
(2021), as their public example repository has them; a reaction's rate is ours. That and
advection-diffusion are nonlinear in the unknown. In the monodomain equation the paper has its
networks in torch: what is compared, and how it trains, is said there. Each section says where the
settings here differ; `--setting paper` takes theirs, for which a day would not suffice here.

**What is compared.** Both methods minimise the same function (same mesh, quadrature, data) from
the same starting weights with the same optimiser, SciPy's L-BFGS-B with its default memory.

- *femnn*: the network in torch, `femnn.fit`.
- *network in UFL*: the paper's own method with today's Firedrake and pyadjoint. Constants as
  controls, which the paper has, do not work there, so each layer's weights are piecewise constant
  fields. Its linear and adjoint solvers are kept between evaluations and time steps, which the
  paper's scripts do not do; boundary values that change in time are a coefficient of the form,
  because a kept solver's recomputation takes the last ones for all steps.
- *femnn, same time*: femnn, trained until the other method's training time is spent.

Errors are relative L2 errors against the truth. Times are processor times on one core, because
other jobs ran beside. "Training" is the optimiser alone, "set-up" all before it, with empty
kernel caches: recording the model, compiling, two values and
gradients. A kernel that both need is compiled by the first, which is femnn. Starting weights have
the paper's distribution and seed numbers, but come from another generator: they are not the
paper's own. The paper's result files are not public, so no number of theirs is quoted.
"""


def main() -> None:
    """Run what was asked for, then write the document."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", nargs="*", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--setting", choices=("paper", "short", "reduced"), default="short")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start none after")
    parser.add_argument("--collect", action="store_true", help="write the document only")
    chosen = parser.parse_args()
    began = time.monotonic()
    for name in [] if chosen.collect else chosen.only:
        if time.monotonic() - began > 60 * chosen.minutes:
            print(f"{name}: left out, the time is spent", flush=True)
        else:
            solve(name, chosen.setting)
    collect()


def solve(name: str, setting: str) -> None:
    """Run one problem in a process with empty kernel caches."""
    command = [sys.executable, "-m", PROBLEMS[name].__name__, "--setting", setting]
    with empty_caches() as environment:
        subprocess.run([*command, "--output", str(RESULTS / name)], env=environment, check=True)


def collect() -> None:
    """Write the document and its figures; a section without results stays as it is there."""
    sections = sections_of(DOCUMENT.read_text()) if DOCUMENT.exists() else {}
    for name, problem in PROBLEMS.items():
        path = RESULTS / name / "results.json"
        if path.exists():
            results = json.loads(path.read_text())
            sections[problem.TITLE] = section(problem, results)
    written = [sections[p.TITLE] for p in PROBLEMS.values() if p.TITLE in sections]
    with atomic_file(DOCUMENT) as path:
        path.write_text("\n".join([PREFACE, *written]))


def sections_of(text: str) -> dict[str, str]:
    """The document's sections by title."""
    parts = [part.rstrip("\n") for part in text.split("\n## ")[1:]]
    return {part.split("\n")[0]: f"## {part}\n" for part in parts}


def section(problem: ModuleType, results: dict) -> str:
    """One problem's section; draws its figure."""
    figure = FIGURES / f"published_{problem.NAME}.png"
    framework.write_figure(problem, results, figure)
    ran = (
        f"Setting `{results['setting']}`, {results['total_seconds'] / 60:.1f} minutes of processor "
        f"time for all methods; Firedrake {version('firedrake')}, PyTorch {version('torch')}."
    )
    picture = f"![{problem.TITLE}]({figure.relative_to(DOCUMENT.parent)})"
    return f"## {problem.TITLE}\n\n{problem.report(results)}\n\n{picture}\n\n{ran}\n"


if __name__ == "__main__":
    main()
