"""femnn: neural networks inside Firedrake finite element models, trained by adjoints.

The public names stand in ``__init__.pyi``. They are imported when they are first used, so that
the networks and their evaluation work where only torch and numpy are installed.
"""

from pathlib import Path as _Path
from typing import Any as _Any

__version__ = "0.1.0"

_ADVICE = """femnn.{name} needs {module}, which is not installed for this Python. Take one:

  make env    in femnn's folder, on Debian 12 or Ubuntu 24.04: builds PETSc, Firedrake and PyTorch
              (README.md); then source "$(make -s env-path)/bin/activate"
  Firedrake   as https://www.firedrakeproject.org/install says, and `pip install .` of femnn in its
              environment

`python -m femnn doctor` lists what is missing."""

try:
    import lazy_loader as _lazy
except ModuleNotFoundError as _missing:  # the programs, which say what to do, run without
    _error, __all__ = _missing, []

    def _attribute(name: str) -> _Any:
        if f" as {name}\n" in _Path(__file__).with_suffix(".pyi").read_text():
            raise _error
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    _attribute, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> _Any:
    try:
        return _attribute(name)
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if module == __name__:
            raise
        advice = _ADVICE.format(name=name, module=module)
        raise ModuleNotFoundError(advice, name=error.name) from error
