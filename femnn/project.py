"""What ``femnn new`` does: write a small project to start from."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

TEMPLATE = Path(__file__).with_name("template")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
CHECKOUT = TEMPLATE.parents[1]

SETUP = """    source "$(make -s -C {checkout} env-path)/bin/activate"
    export PYTHONPATH={checkout} OMP_NUM_THREADS=1
"""
INSTALLED = "    export OMP_NUM_THREADS=1\n"


def run(name: str) -> int:
    """Write a project and say what to do with it; return 0, or 1 with the reason on standard error.

    Parameters
    ----------
    name
        The folder that is to be made, in the present one or by its path.
    """
    try:
        folder = write(Path(name))
    except (OSError, ValueError) as error:
        print(f"femnn new: {error}", file=sys.stderr)
        return 1
    print(f"{folder} is there. Next:\n\n    cd {folder}\n    python run.py\n    python -m pytest\n")
    print("Begin with model.py; README.md says what the files are.")
    return 0


def write(folder: Path) -> Path:
    """Write the project's files; all of them, or none.

    Parameters
    ----------
    folder
        The project's folder, which is not there yet, or empty.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        If its name is none for a project.
    FileExistsError
        If a file of that name is there, or a folder that is not empty.
    FileNotFoundError
        If the folder that it is to be in is not there.
    """
    _check(folder)
    unfinished = Path(tempfile.mkdtemp(prefix=".femnn-new-", dir=folder.parent))
    try:
        for source in sorted(TEMPLATE.iterdir()):
            text = source.read_text(encoding="utf-8")
            target = unfinished / source.name.removesuffix(".txt")
            target.write_text(_filled(text, folder.name), encoding="utf-8")
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o777 & ~mask)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _check(folder: Path) -> None:
    if not NAME.fullmatch(folder.name):
        raise ValueError(
            f"{folder.name!r} is no name for a project: wanted letters, digits, - and _, with a "
            "letter first, as in my_inversion."
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"the folder {folder} is there and not empty: choose another name, or move it away. "
            "Nothing was changed."
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another name. Nothing was changed.")
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder.parent}, in which {folder.name} is to be: "
            f"mkdir -p {folder.parent}"
        )


def _filled(text: str, name: str) -> str:
    """The text with the project's name, and how its environment is entered."""
    is_checkout = (CHECKOUT / "Makefile").exists() and (CHECKOUT / "install").is_dir()
    setup = SETUP.format(checkout=CHECKOUT) if is_checkout else INSTALLED
    return text.replace("# NAME\n", f"# {name}\n").replace("    SETUP\n", setup)
