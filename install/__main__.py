"""Command line of the installer: ``python3 -m install build`` and ``python3 -m install path``."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python must get this line, not a traceback
    sys.exit(
        "femnn needs Python 3.11 or newer, this is "
        + ".".join(map(str, sys.version_info[:3]))
        + ". Name another one: make PYTHON=python3.12 ..."
    )

from install.cli import main

sys.exit(main())
