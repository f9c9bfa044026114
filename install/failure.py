"""Says in plain words what went wrong and what to do about it."""

import re
from pathlib import Path


class SetupError(Exception):
    """The environment could not be built; the message names step, reason and advice."""


CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "Free about 6 GB, or put the environment elsewhere with FEMNN_ENV=/a/folder.",
    ),
    (
        r"name resolution|Network is unreachable|NewConnectionError|NameResolutionError"
        r"|Could not resolve|ConnectTimeoutError|Connection timed out|Failed to fetch",
        "no network, or the package index cannot be reached",
        "Check the network and any proxy settings, then run the same command again.",
    ),
    (
        r"No matching distribution found",
        "a pinned version is not offered by the package index",
        "Check the network, pip's own settings, and the version in install/pins.toml.",
    ),
    (
        r"Could not get lock|is held by process",
        "another package manager is running",
        "Wait until it is done, then run the same command again.",
    ),
    (
        r"Unable to locate package",
        "a system package is unknown to apt",
        "Run apt-get update. The package names are those of Debian 12 and Ubuntu 24.04.",
    ),
    (
        r"are you root|Permission denied|a password is required",
        "no permission",
        "Run the failed command as an administrator, or choose a folder of yours with FEMNN_ENV.",
    ),
    (
        r"fatal error: Python\.h",
        "Python's header files are missing",
        "Install Python's development package (python3-dev).",
    ),
    (
        r"Killed signal|cc1\w*: out of memory|MemoryError|virtual memory exhausted",
        "the machine ran out of memory",
        "Close other programs; compiling petsc4py needs about 3 GB. Then run the command again.",
    ),
    (
        r"(gcc|g\+\+|cc|mpicc|gfortran)'?:? .*(not found|No such file)|C compiler you provided",
        "a compiler is missing or does not work",
        "Install gcc, g++ and gfortran, and see that mpicc runs.",
    ),
)
"""Pattern in the log, reason, advice; the first that matches is told."""

RESUME = "Finished steps are kept: the same command goes on at this step."


def diagnose(log: str) -> tuple[str, str]:
    """Return the reason and the advice for a failed step's output."""
    for pattern, reason, advice in CAUSES:
        if re.search(pattern, log):
            return reason, advice
    return "a command failed, for a reason not known here", "Read the end of the log."


def step_failed(name: str, status: int, log: Path) -> SetupError:
    """Return the error for a step whose command ended with a nonzero status."""
    text = log.read_text(errors="replace")
    reason, advice = diagnose(text)
    return SetupError(
        f"{tail(text)}\n\n"
        f"FAILED: step '{name}' (exit status {status})\n"
        f"Reason: {reason}.\n"
        f"What to do: {advice} {RESUME}\n"
        f"Full log: {log}"
    )


def tail(text: str, lines: int = 15) -> str:
    """Return the last lines of a log, indented; blank ones left out."""
    kept = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line[:200]}" for line in kept)
