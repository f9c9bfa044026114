"""Lets ``import femnn`` find the checkout that the working folder lies in.

The environment is shared by every checkout of femnn on a machine, so none is installed in it.
The folder goes to the end of the path: an installed femnn, or PYTHONPATH, comes first.
"""

import sys
from pathlib import Path


def checkout(start):
    """Return the folder at or above ``start`` that is a checkout of femnn, or None."""
    for folder in (start, *start.parents):
        if (folder / "femnn" / "__init__.py").is_file() and (folder / "install").is_dir():
            return folder
    return None


def extend_path():
    """Put the working folder's checkout on the path, where there is one."""
    try:
        found = checkout(Path.cwd())
    except OSError:
        return
    if found:
        sys.path.append(str(found))


extend_path()
