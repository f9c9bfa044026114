"""The system's packages: what is missing, and how it gets there."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from install.failure import SetupError, diagnose, tail

PACKAGES = (
    "bison",
    "flex",
    "g++",
    "gcc",
    "gfortran",
    "libhdf5-openmpi-dev",
    "libhwloc-dev",
    "libmetis-dev",
    "libmumps-dev",
    "libopenblas-dev",
    "libopenmpi-dev",
    "libptscotch-dev",
    "libscalapack-openmpi-dev",
    "libsuitesparse-dev",
    "libsuperlu-dist-dev",
    "make",
    "ninja-build",
    "openmpi-bin",
    "patchelf",
    "pkg-config",
    "zlib1g-dev",
)

INSTALL = ("apt-get", "install", "-y", "--no-install-recommends")


def ensure(log: Path) -> None:
    """Install the missing system packages, or say which command does; apt writes to the log."""
    if os.environ.get("FEMNN_SKIP_SYSTEM"):
        return
    if not shutil.which("dpkg-query"):
        raise SetupError(
            "This system has no dpkg, so its packages cannot be checked.\n"
            f"What to do: install the counterparts of: {' '.join(PACKAGES)}\n"
            "then run the same command with FEMNN_SKIP_SYSTEM=1."
        )
    missing = missing_packages()
    if missing:
        install(missing, log)


def missing_packages() -> list[str]:
    """Return the needed packages that are not installed."""
    query = ("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\\n", *PACKAGES)
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {line.split()[1] for line in answer.splitlines() if line.startswith("installed ")}
    return [name for name in PACKAGES if name not in installed] + python_packages()


def python_packages() -> list[str]:
    """Return the parts of this Python that Debian packs apart and that are missing."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    missing = []
    if importlib.util.find_spec("ensurepip") is None:
        missing.append(f"{version}-venv")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing.append(f"{version}-dev")
    return missing


def install(missing: list[str], log: Path) -> None:
    """Install packages as root or through a sudo that asks no password."""
    prefix = privilege()
    if prefix is None:
        raise SetupError(needs_administrator(missing))
    print(f"[system] {len(missing)} system packages (about 1 min): {' '.join(missing)}", flush=True)
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    # Without an update first, a fresh machine knows no packages at all.
    run((*prefix, "apt-get", "update", "-q"), log)
    run((*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *INSTALL, *missing), log)
    print(f"[system] done in {time.monotonic() - began:.0f} s; log: {log}", flush=True)


def privilege() -> tuple[str, ...] | None:
    """Return what to put before a command to run it as root; None where that is not to be had."""
    if os.geteuid() == 0:
        return ()
    if (
        shutil.which("sudo")
        and subprocess.run(("sudo", "-n", "true"), capture_output=True).returncode == 0
    ):
        return ("sudo", "-n")
    return None


def needs_administrator(missing: list[str]) -> str:
    """Return the message for somebody who may not install system packages."""
    command = " ".join(INSTALL + tuple(missing))
    return (
        "FAILED: step 'system'\n"
        f"Reason: {len(missing)} system packages are missing, and this user may not install them.\n"
        "What to do: let an administrator run\n\n"
        f"    sudo apt-get update && sudo {command}\n\n"
        "then run the same command again."
    )


def run(command: tuple[str, ...], log: Path) -> None:
    """Run a package manager's command; its output goes to the log, its end is shown if it fails."""
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    output = result.stdout + result.stderr
    with log.open("a") as file:
        file.write(f"+ {' '.join(command)}\n{output}\n")
    if result.returncode == 0:
        return
    reason, advice = diagnose(output)
    raise SetupError(
        f"{tail(output)}\n\nFAILED: step 'system': {' '.join(command)}\n"
        f"Reason: {reason}.\nWhat to do: {advice}"
    )
