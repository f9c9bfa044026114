"""Packages that are used where they are installed."""

from __future__ import annotations

import importlib
from typing import Any


def imported(package: str, who: str, install: str | None = None) -> Any:
    """An optional package; an error that says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{who} needs {package}, which is not installed: pip install {install or package}"
        ) from error
