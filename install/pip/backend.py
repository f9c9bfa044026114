"""hatchling for pip, which says at once where Firedrake is missing.

pip would go on to build Firedrake and PETSc without what these need, for many minutes, and end in
an error of theirs.
"""

import os
import subprocess
import sys
from typing import Any

from hatchling import build as hatchling
from hatchling.build import (  # noqa: F401  what pip asks for besides
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
)

ANYWAY = "FEMNN_WITHOUT_FIREDRAKE"
MISSING = f"""

femnn needs Firedrake, which is not installed for {sys.executable},
and which pip cannot build by itself. Take one of these:

  make env    in femnn's folder, on Debian 12 or Ubuntu 24.04: builds PETSc, Firedrake and PyTorch.
              `pip install` is not needed then; README.md says more.
  Firedrake   as https://www.firedrakeproject.org/install says; activate its environment, and run
              `pip install .` there.

{ANYWAY}=1 builds femnn all the same, for another environment.
"""
LOOK = "import importlib.util, sys; sys.exit(importlib.util.find_spec('firedrake') is None)"


def check_firedrake() -> None:
    """End with a message where the environment that pip installs to has no Firedrake."""
    # pip builds apart from the environment, by PYTHONPATH; -I looks past that.
    found = subprocess.run([sys.executable, "-I", "-c", LOOK], check=False).returncode == 0
    if not found and not os.environ.get(ANYWAY):
        sys.exit(MISSING)


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What pip asks first."""
    check_firedrake()
    return hatchling.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What pip asks first of an installation that follows the source."""
    check_firedrake()
    return hatchling.get_requires_for_build_editable(config_settings)
