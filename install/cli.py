"""What each command of the installer does."""

import argparse
import signal
import sys
from types import FrameType

from install import build, layout, pins, recipe, system
from install.failure import SetupError


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    command = parse(argv)
    # An ended job (SIGTERM) stops its children and stays resumable, as Ctrl-C does.
    signal.signal(signal.SIGTERM, interrupt)
    try:
        return COMMANDS[command]()
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on from here.", file=sys.stderr)
        return 130


def parse(argv: list[str] | None) -> str:
    """Return the name of the command that was asked for."""
    parser = argparse.ArgumentParser(prog="python3 -m install", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS))
    return str(parser.parse_args(argv).command)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Turn a termination signal into what Ctrl-C raises."""
    raise KeyboardInterrupt


def build_command() -> int:
    """Build what is missing of the environment."""
    steps = recipe.steps(pins.read())
    place = layout.find(steps)
    system.ensure(place.state / "system.log")
    build.run(steps, place)
    print(f"Environment ready: {place.env}")
    return 0


def path_command() -> int:
    """Print the environment's folder, whether it is built yet or not."""
    print(layout.find(recipe.steps(pins.read())).env)
    return 0


def docs_command() -> int:
    """Build what is missing for the documentation's site; print where it lies."""
    steps = recipe.steps(pins.read())
    place = layout.find(steps)
    build.run(recipe.with_documentation(steps, pins.read(pins.DOCS_FILE)), place)
    print(place.docs)
    return 0


COMMANDS = {"build": build_command, "docs": docs_command, "path": path_command}
