"""Where the environment, its logs, its stamps and the kept wheels lie."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from install.recipe import Step


@dataclass(frozen=True)
class Layout:
    """The folders of one environment."""

    env: Path
    wheels: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.env / "bin" / "python"

    @property
    def site(self) -> Path:
        """The environment's site-packages."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.env / "lib" / version / "site-packages"

    @property
    def docs(self) -> Path:
        """The packages that only the documentation's build imports."""
        return self.env / "docs-packages"

    @property
    def state(self) -> Path:
        """The installer's own folder: lock, stamps and logs."""
        return self.env / "femnn-install"

    def stamp(self, step: Step) -> Path:
        """Return the file that says that a step is done."""
        return self.state / f"{step.name}.done"

    def log(self, step: Step) -> Path:
        """Return the file that holds all that a step printed."""
        return self.state / f"{step.name}.log"


def find(steps: Sequence[Step], environ: Mapping[str, str] = os.environ) -> Layout:
    """Return the layout for these steps: ``FEMNN_ENV``, or a folder of the user's cache.

    The folder's name carries the digest of the last step, which depends on everything before it:
    pins, options, Python and operating system. Whoever needs other versions gets another folder.
    """
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "femnn"
    fixed = environ.get("FEMNN_ENV")
    env = Path(fixed).absolute() if fixed else cache / f"env-{steps[-1].digest[:12]}"
    return Layout(env=env, wheels=cache / "wheels")
