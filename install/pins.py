"""Reads ``pins.toml`` and ``docs.toml``, the places where versions are named."""

import tomllib
from pathlib import Path

Pins = dict[str, dict[str, str]]
"""Section of the file to package to version."""

PINS_FILE = Path(__file__).with_name("pins.toml")
DOCS_FILE = Path(__file__).with_name("docs.toml")


def read(path: Path = PINS_FILE) -> Pins:
    """Return the pinned versions, section by section."""
    with path.open("rb") as file:
        return tomllib.load(file)


def requirements(pins: Pins, section: str) -> tuple[str, ...]:
    """Return a section as ``name==version`` requirements."""
    return tuple(f"{name}=={version}" for name, version in pins[section].items())


def constraints(pins: Pins) -> str:
    """Return all pins as the text of a pip constraints file."""
    return "\n".join(line for section in pins for line in requirements(pins, section)) + "\n"
