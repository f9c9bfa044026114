"""A figure of each demo and study for the gallery.

Demos are run at reduced size when the site is built, and again only when they have changed.
Studies take minutes, and one needs a file of measurements, so their figures lie in
``docs/figures/studies``; ``make gallery`` makes them anew.
"""

import importlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docs.site.pages import alone, resized

ROOT = Path(__file__).parents[2]
STUDY_FIGURES = ROOT / "docs" / "figures" / "studies"

# Sizes to run with; tests/demos says what must hold of the numbers then.
DEMOS: dict[str, dict[str, Any]] = {
    "boundary_law": {"CELLS": 2, "ITERATIONS": 30},
    "coefficient_field": {"CELLS": 20, "ITERATIONS": 40},
    "encoder_and_law": {"CELLS": 5, "WALLS": 4, "ITERATIONS": 40},
    "export_law": {"CELLS": 20, "ITERATIONS": 30},
    "heat_in_time": {"CELLS": 8, "STEPS": 6, "KEPT": 2, "ITERATIONS": 25},
    "initial_state": {"CELLS": 12, "STEPS": 6, "ITERATIONS": 60},
    "law_with_band": {"CELLS": 8, "STATIONS": 400, "ROUNDS": 4},
    "nonlinear_poisson": {"CELLS": 12, "STATIONS": 800, "ITERATIONS": 80},
    "reaction_splitting": {"CELLS": 8, "STEPS": 5, "ITERATIONS": 50},
    "sites": {"CELLS": 4, "SITES": 6, "ITERATIONS": 6},
    "smooth_law": {"CELLS": 8, "STATIONS": 40, "ITERATIONS": 60},
    "stations": {"CELLS": 6, "STEPS": 5, "WELLS": 12, "ITERATIONS": 25},
    "stored_energy": {"CELLS": 3, "ITERATIONS": 40},
    "two_laws": {"CELLS": 6, "THERMOMETERS": 10, "ITERATIONS": 15},
    "two_layers": {"CELLS": 10, "ITERATIONS": 50},
    "verify_model": {"CELLS": 6},
}

# Options of runs of some minutes.  Others have a page, with its figure; some take a record.
STUDIES: dict[str, list[str]] = {
    "advection": ["--cells", "8", "--iterations", "50", "--longer", "5"],
    "boundary_law": [],
    "coefficient_field": ["--iterations", "200"],
    "encoder_and_law": [],
    "hyperelasticity": [],
    "nonlinear_poisson": [],
    "reaction": [],
    "tissue": [],
}


def source_of(name: str) -> str:
    """The demo's code with its sizes reduced."""
    return resized((ROOT / "demos" / f"{name}.py").read_text(), DEMOS[name])


def demo_figure(name: str, folder: Path) -> Path:
    """Run a demo in a folder, where it has not been run as it is now; return its figure."""
    folder.mkdir(parents=True, exist_ok=True)
    ran, source = folder / f"{name}.py", source_of(name)
    if not ran.exists() or ran.read_text() != source:
        with alone(folder):
            exec(compile(source, f"demos/{name}.py", "exec"), {"__name__": "__main__"})
        ran.write_text(source)
    return folder / "output" / name / "figure.png"


def with_figures(text: str, folder: Path, page: Path) -> str:
    """The gallery's page with a figure below each paragraph that ends with a demo's code."""

    def with_figure(code: re.Match) -> str:
        figure = os.path.relpath(demo_figure(code[1], folder), page)
        return f"{code[0]}\n\n![What the demo {code[1]} draws]({figure})"

    return re.sub(r"\[Code\]\(\.\./demos/(\w+)\.py\)\.$", with_figure, text, flags=re.MULTILINE)


def main(names: list[str]) -> None:
    """Run studies, all by default, and keep their figures."""
    STUDY_FIGURES.mkdir(parents=True, exist_ok=True)
    for name in names or STUDIES:
        output = ROOT / "output" / "gallery" / name
        study = importlib.import_module(f"demos.studies.{name}.__main__")
        study.main(["--output", str(output), *STUDIES[name]])
        shutil.copy(output / "figure.png", STUDY_FIGURES / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
