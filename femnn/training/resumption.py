"""A training that goes on where another process has left it."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from femnn.parallel import on_rank_zero
from femnn.tape.counts import Solves
from femnn.training.history import Step
from femnn.training.journal import Evaluation
from femnn.training.loss import Loss
from femnn.training.settings import Settings, check_whole
from femnn.training.snapshots import Snapshots, arrays_of, tensors_of

# A loss that has not changed, but for rounding and the solvers' tolerances.
SAME = 1e-6


@dataclass(frozen=True)
class Keeping:
    """Where and how often the state of a training is written.

    Attributes
    ----------
    folder
        Where.
    every
        Number of iterations from one time to the next.
    resume
        Whether to go on from what is there.

    Raises
    ------
    TypeError, ValueError
        If one of them is not of its kind.
    """

    folder: str | Path
    every: int
    resume: bool

    def __post_init__(self) -> None:
        check_whole("checkpoint_every", self.every, least=1)
        if not isinstance(self.folder, (str, Path)):
            raise TypeError(
                f"fit: checkpoint is a {type(self.folder).__name__}, wanted the path of a folder."
            )


def keeping_of(
    method: str, resumes: bool, checkpoint: str | Path | None, every: int, resume: bool
) -> Keeping | None:
    """What ``fit`` was told, checked.

    Raises
    ------
    TypeError, ValueError
        If it is not of its kind, or the method cannot go on after a break.
    """
    if checkpoint is None:
        if resume:
            raise ValueError("fit: resume=True, but from what? Give checkpoint=FOLDER, too.")
        return None
    if not resumes:
        raise ValueError(
            f"fit: {method} keeps what it knows to itself, so it cannot go on after a break: leave "
            "checkpoint out, or take 'newton-cg', 'gauss-newton' or 'L-BFGS'."
        )
    return Keeping(checkpoint, every, resume)


class Resumption:
    """Writes a training's state, and gives it back.

    Optimisers that can say what they remember are given that again.  All others are led along
    their former evaluations, without running the model, which gives them the same memory.
    The model's solvers start from their last solutions, so these are made again: by running the
    model at all points since the last time that its solvers were told to forget them.

    Parameters
    ----------
    keeping
        Where and how often.
    loss
        The training's loss.
    who
        The optimiser: its name, and whether it can say what it remembers.
    settings
        The training's settings.
    callback
        The user's, whose ``state_dict`` is kept where it has one.
    """

    def __init__(
        self, keeping: Keeping, loss: Loss, who: tuple[str, bool], settings: Settings, callback: Any
    ):
        self._keeping, self._loss, self._callback = keeping, loss, callback
        self._method, self._remembers = who
        self._settings = settings
        self._comm = loss.controls.comm
        self._files = Snapshots(keeping.folder)
        self._state: dict[str, Any] | None = None
        self._is_written = True
        self._pieces: list[str] = []
        self._n_in_pieces = 0
        self._warned = False

    def load(self) -> dict[str, Any] | None:
        """The state to go on from, if there is one, with the model as it was then.  Collective.

        Raises
        ------
        FileExistsError
            If there is one but it was not asked for.
        ValueError
            If it cannot be read, or is of another model.
        """
        state = on_rank_zero(self._comm, self._read)
        order = self._loss.controls.order
        self._loss.follows_runs = True
        if not self._remembers:
            self._loss.journal.kept = []
        if state is None:
            return None
        self._check_same(state)
        state = _reordered(state, np.argsort(order))
        self._pieces, self._n_in_pieces = list(state["pieces"]), state["n_evaluations"]
        self._check_model(state)
        if self._remembers:
            self._loss.restore(state["loss"])
        self._loss.run_again([v.numpy() for v in state["runs"]])
        if not self._remembers:
            self._loss.journal.repeat(Evaluation(**arrays_of(e)) for e in state["evaluations"])
        self._set_random(state["random"])
        if state["callback"] is not None and hasattr(self._callback, "load_state_dict"):
            self._callback.load_state_dict(state["callback"])
        return state

    def accepted(self, history: list[Step], memory: dict[str, Any] | None) -> None:
        """An iteration is done, with what the optimiser remembers then.  Collective."""
        due = history[-1].iteration % self._keeping.every == 0
        if due:
            self._loss.forget_guesses()
        loss = self._loss
        self._state = {
            **self._identity(),
            "history": history[:],
            "loss": loss.state(),
            "runs": [torch.tensor(v) for v in loss.runs],
            "memory": memory,
            "n_evaluations": loss.evaluations,
            "random": _random(),
            "callback": self._callback.state_dict()
            if hasattr(self._callback, "state_dict")
            else None,
        }
        self._is_written = False
        if due:
            self.write()

    def write(self) -> None:
        """Write the state of the last iteration.  Collective.

        A disk that takes no more is no end of the training: the former file stays, with a warning.
        """
        if self._is_written or self._state is None:
            return
        try:
            self._pieces = on_rank_zero(self._comm, self._write)
        except OSError as error:
            if not self._warned:
                warnings.warn(
                    f"fit: the training could not be written to {self._keeping.folder} ({error}): "
                    "it goes on, and an older checkpoint stays as it was.",
                    stacklevel=2,
                )
            self._warned = True
            return
        self._forget_written()
        self._is_written = True

    def _read(self) -> dict[str, Any] | None:
        folder = self._keeping.folder
        if Path(folder).exists() and not Path(folder).is_dir():
            raise NotADirectoryError(f"fit: checkpoint={folder} is a file, wanted a folder.")
        if not self._files.exist:
            return None
        if not self._keeping.resume:
            raise FileExistsError(
                f"fit: there is a checkpoint in {folder}: say resume=True to go on from it, or "
                "choose another folder."
            )
        return self._files.read()

    def _write(self) -> list[str]:
        assert self._state is not None
        pieces, first = list(self._pieces), self._n_in_pieces
        order = self._loss.controls.order
        if self._loss.journal.kept:
            new = self._loss.journal.kept[: self._state["n_evaluations"] - first]
            if new:
                plain = _reordered([tensors_of(e) for e in new], order)
                pieces.append(self._files.write_evaluations(first, plain))
        history = [asdict(step) for step in self._state["history"]]
        state = _reordered({**self._state, "history": history, "pieces": pieces}, order)
        self._files.write(state)
        return pieces

    def _forget_written(self) -> None:
        assert self._state is not None
        n = self._state["n_evaluations"]
        if self._loss.journal.kept is not None:
            del self._loss.journal.kept[: n - self._n_in_pieces]
        self._n_in_pieces = n

    def _identity(self) -> dict[str, Any]:
        controls = self._loss.controls
        return {
            "controls": controls.description,
            "method": self._method,
            "options": repr(sorted(self._settings.options.items())),
            "learning rate": repr(self._settings.learning_rate),
        }

    def _check_same(self, state: dict[str, Any]) -> None:
        """Raise where the training that was written is another one."""
        other = [
            f"{name} {state[name]!r}, here {mine!r}"
            for name, mine in self._identity().items()
            if state[name] != mine
        ]
        if other:
            raise ValueError(
                f"fit: the checkpoint in {self._keeping.folder} is of another training: it has "
                f"{'; '.join(other)}. Give the same, or begin anew in another folder."
            )

    def _check_model(self, state: dict[str, Any]) -> None:
        """Raise where the model gives another loss."""
        last = state["loss"]["last"]
        here, there = self._loss.value_at(last["vector"].numpy()), last["loss"]
        if not abs(here - there) <= SAME * abs(there):
            raise ValueError(
                f"fit: the model is another one than that of the checkpoint in "
                f"{self._keeping.folder}: at the same {self._loss.controls.what} the loss was "
                f"{there:.8e} and is {here:.8e}. Look for changed data, meshes, solver tolerances "
                "or inputs; or begin anew in another folder."
            )

    def _set_random(self, states: dict[str, Any]) -> None:
        if self._comm.rank:
            return
        torch.set_rng_state(states["torch"])
        keys = states["keys"].numpy().astype(np.uint32)
        inner = {"key": keys, "pos": states["pos"]}
        np.random.set_state({**states["numpy"], "state": inner})  # noqa: NPY002


def history_of(state: dict[str, Any]) -> list[Step]:
    """The iterations that were written."""
    return [Step(**{**s, "solves": Solves(**s["solves"])}) for s in state["history"]]


def _reordered(state: Any, order: np.ndarray) -> Any:
    """The same, with the vectors of the controls in another order."""
    if isinstance(state, dict):
        return {name: _reordered(value, order) for name, value in state.items()}
    if isinstance(state, list):
        return [_reordered(value, order) for value in state]
    if (
        isinstance(state, torch.Tensor)
        and state.shape == (len(order),)
        and state.is_floating_point()
    ):
        return state[order]
    return state


def _random() -> dict[str, Any]:
    """The states of torch's and numpy's own random numbers."""
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    own = {k: v for k, v in state.items() if k != "state"}
    keys = torch.from_numpy(state["state"]["key"].astype(np.int64))
    return {
        "torch": torch.get_rng_state(),
        "numpy": own,
        "keys": keys,
        "pos": state["state"]["pos"],
    }
