"""Files with the state of a training: complete ones only, each with its checksum."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from femnn.atomic import atomic_file

MAGIC = b"femnn training 1\n"
NAME, BEFORE = "training.checkpoint", "training.before.checkpoint"


def tensors_of(record: Any) -> dict[str, Any]:
    """A record's fields as files hold them: tensors in the place of arrays."""
    return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in vars(record).items()}


def arrays_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A record's fields, from what :func:`tensors_of` gave."""
    return {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in plain.items()}


class Damaged(ValueError):
    """A file that does not hold what was written."""


class Snapshots:
    """The last two states of a training, and the evaluations that they count on.  One process.

    Parameters
    ----------
    folder
        Where the files are, and nothing else; made with the first one.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @property
    def exist(self) -> bool:
        """Whether there is a file of a training."""
        return any((self.folder / name).exists() for name in (NAME, BEFORE))

    def write(self, state: dict[str, Any]) -> None:
        """Write a state; the last one is kept beside it.

        Parameters
        ----------
        state
            Numbers, strings and tensors, in lists and dictionaries.

        Raises
        ------
        OSError
            If it cannot be written; a former state is there as it was.
        """
        with atomic_file(self.folder / NAME) as temporary:
            temporary.write_bytes(_packed(state))
            if (self.folder / NAME).exists():
                os.replace(self.folder / NAME, self.folder / BEFORE)

    def read(self) -> dict[str, Any]:
        """The last state whose files are whole.

        Raises
        ------
        ValueError
            If there is none.
        """
        found = [self.folder / n for n in (NAME, BEFORE) if (self.folder / n).exists()]
        problems = []
        for path in found:
            try:
                state = _unpacked(path)
                state["evaluations"] = [
                    e for name in state["pieces"] for e in _unpacked(self.folder / name)["all"]
                ]
            except (OSError, Damaged) as error:
                problems.append(str(error))
                continue
            if problems:
                warnings.warn(
                    f"fit: {problems[0]}. Going on from the checkpoint before it.", stacklevel=2
                )
            return state
        raise ValueError(
            f"fit: no checkpoint in {self.folder} can be read: {'; '.join(problems)}. Restore the "
            "files from a copy, or start anew with another folder."
        )

    def write_evaluations(self, first: int, evaluations: list[dict[str, Any]]) -> str:
        """Write evaluations that states count on; the file's name.

        Parameters
        ----------
        first
            The number of the first one of them.
        evaluations
            As for :meth:`write`.
        """
        name = f"evaluations-{first:07d}.checkpoint"
        with atomic_file(self.folder / name) as temporary:
            temporary.write_bytes(_packed({"all": evaluations}))
        return name


def _packed(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    return MAGIC + hashlib.sha256(content).digest() + content


def _unpacked(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    start = len(MAGIC) + hashlib.sha256().digest_size
    checksum, content = data[len(MAGIC) : start], data[start:]
    if not data.startswith(MAGIC) or hashlib.sha256(content).digest() != checksum:
        raise Damaged(f"{path} is damaged: its checksum is not that of its content")
    return torch.load(io.BytesIO(content), weights_only=True)
