"""Running a tape by a schedule of ``checkpoint_schedules``, for all derivatives.

A schedule says when to advance the model, what to store and when to go backwards.  Here a step
carries its values and, for second derivatives, their changes in a direction, so that a Hessian's
action costs no more memory than a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import firedrake as fd
from checkpoint_schedules import (
    CheckpointSchedule,
    Copy,
    Forward,
    Move,
    Reverse,
    StorageType,
)
from firedrake.adjoint_utils.blocks import DirichletBCBlock
from pyadjoint import AdjFloat, Tape
from pyadjoint.checkpointing import CheckpointManager
from pyadjoint.tape import get_working_tape, no_annotations

from femnn.tape.disk import Disk, Garbage
from femnn.tape.schedules import all_actions, live_variables, variables_of

# A number never changes; a boundary condition only names the variable that has its values.
_IMMUTABLE = (AdjFloat, fd.DirichletBC)


def check_schedule() -> None:
    """Raise where the working tape has a schedule that pyadjoint itself would run."""
    manager = get_working_tape()._checkpoint_manager
    if isinstance(manager, CheckpointManager):
        raise RuntimeError(
            "tape.enable_checkpointing was called on a tape that records networks: pyadjoint's "
            "values and gradients are then wrong where boundary values change in time, and so are "
            "its Hessian actions. Call femnn.enable_checkpointing(schedule) instead."
        )


class Replay:
    """Runs a tape forwards and backwards by a schedule.

    Parameters
    ----------
    tape
        The tape, without blocks.
    schedule
        The schedule.
    directory
        Where checkpoints on disk go.

    Notes
    -----
    Between steps only the *live* variables count: those that a later step uses and an earlier
    one has made.  What no block has made (weights, fields that are set from outside) is never
    given up, as nothing could compute it again.
    """

    def __init__(self, tape: Tape, schedule: CheckpointSchedule, directory: str | None):
        self._tape = tape
        self._schedule = schedule
        self._actions: tuple[list, list] = ([], [])
        self._live: list[dict[Any, None]] = []
        self._n_analysed: tuple[int, int] | None = None
        self._controls: set[Any] = set()
        self._stored: dict[tuple[int, StorageType], dict[Any, tuple[Any, Any]]] = {}
        self._disk = Disk(directory)
        self._garbage = Garbage()
        self._ready = False
        self._tangent = False
        self._of_block: Callable[..., None] = _first_order
        self._markings = False
        tape.latest_checkpoint = -1  # only what a block uses is saved, when it is used
        tape.get_blocks().append_step()

    # What pyadjoint calls.

    def end_timestep(self, timestep: int) -> None:
        """End a step of the recording; nothing of it is kept but the first step's values."""
        if timestep > 0:
            for variable in variables_of(self._steps[timestep]):
                self._release(variable)
            self._garbage.collect()
        self._tape.get_blocks().append_step()

    def recompute(self, functional: Any = None) -> None:
        """Run the model at the controls' present values."""
        self._controls = self._marked()
        self._forward(tangent=False)

    def evaluate_adj(self, last_block: int = 0, markings: bool = False) -> None:
        """Run the adjoint, from the adjoint value that the functional has."""
        if last_block != 0:
            raise NotImplementedError(
                f"evaluate_adj got last_block={last_block}: a tape with a schedule runs its "
                "adjoint to the first block."
            )
        self._controls |= self._marked()
        self._markings = markings
        seeds = {v: v.adj_value for v in self._everything() if v.adj_value is not None}
        if not self._ready:
            self._forward(tangent=False)
        self._backward(_first_order)
        for variable, value in seeds.items():
            if not self._is_input(variable):
                variable.adj_value = value  # second derivatives start from it

    def evaluate_tlm(self, markings: bool = False) -> None:
        """Run the model and its tangent-linear model."""
        self._controls |= {v for v in self._everything() if v.tlm_value is not None}
        self._markings = markings
        self._forward(tangent=True)

    def evaluate_hessian(self, markings: bool = False) -> None:
        """Run the adjoint and its change in the direction."""
        known = {v: v.adj_value for v in self._everything() if v.adj_value is not None}
        if all(self._is_input(v) for v in known):
            raise RuntimeError(
                "hessian() was called before derivative(): the Hessian's action continues from "
                "the adjoint. Call derivative() of the reduced functional first."
            )
        self._markings = markings
        if not (self._ready and self._tangent):
            self._forward(tangent=True)
        for variable in known:
            if self._is_input(variable):
                variable.adj_value = None  # the adjoint runs again and would add to it
        self._backward(_second_order)
        for variable, value in known.items():
            variable.adj_value = value

    def evaluate_second_order(self, of_block: Callable[..., None], markings: bool) -> None:
        """Run something else than the Hessian backwards, along the direction that was run last.

        Parameters
        ----------
        of_block
            Called as ``of_block(block, markings=markings)`` for each block, the last first.
        markings
            As for pyadjoint's sweeps.
        """
        self._markings = markings
        if not (self._ready and self._tangent):
            self._forward(tangent=True)
        self._backward(of_block)

    def forget(self) -> None:
        """Note that the values on the tape are not those of the controls."""
        self._ready = False
        self._stored.clear()

    # Running through the schedule.

    def _forward(self, tangent: bool) -> None:
        self.forget()
        self._analyse()
        self._tangent = tangent
        self._run(self._actions[0])
        self._ready = True

    def _backward(self, of_block: Callable[..., None]) -> None:
        self._of_block = of_block
        actions = self._actions[1]
        if not actions:
            raise RuntimeError(
                f"{type(self._schedule).__name__} has no adjoint: choose another schedule."
            )
        try:
            self._run(actions)
        finally:
            self.forget()

    @no_annotations
    def _run(self, actions: Iterable) -> None:
        with self._marked_as_controls():
            for action in actions:
                if isinstance(action, Forward):
                    self._advance(action)
                elif isinstance(action, Reverse):
                    for n in range(action.n1 - 1, action.n0 - 1, -1):
                        self._reverse(n, action.clear_adj_deps)
                elif isinstance(action, (Copy, Move)):
                    self._load(action)

    def _advance(self, action: Forward) -> None:
        stores = action.storage in (StorageType.RAM, StorageType.DISK)
        for n in range(action.n0, min(action.n1, len(self._steps))):
            if stores and action.write_ics and n == action.n0:
                self._store(n, action.storage, self._live[n])
            for block in self._steps[n]:
                self._compute(block)
            if action.write_adj_deps:
                if not stores:
                    continue
                self._store(n, action.storage, variables_of(self._steps[n]))
            for variable in variables_of(self._steps[n]):
                if variable not in self._live[n + 1]:
                    self._release(variable)
            self._garbage.collect()

    def _compute(self, block: Any) -> None:
        self._check(block)
        outputs = block.get_outputs()
        # A control in the midst of the model has no value until the model has been run.
        unset = [v for v in outputs if v.is_control and v.checkpoint is None]
        for variable in unset:
            variable.is_control = False
        block.recompute()
        for variable in unset:
            variable.is_control = True
        if self._tangent:
            self._move(block)

    def _move(self, block: Any) -> None:
        """The change of a block's outputs."""
        if not any(v.is_control for v in block.get_outputs()):
            for variable in block.get_outputs():
                variable.tlm_value = None
            block.evaluate_tlm(markings=self._markings)

    def _reverse(self, n: int, clear: bool) -> None:
        for block in reversed(self._steps[n]):
            self._check(block)
            self._of_block(block, markings=self._markings)
        for block in self._steps[n]:
            block.reset_adjoint_state()
            for variable in block.get_outputs():
                if not variable.is_control:
                    variable.reset_variables(("adjoint", "hessian"))
                if clear:
                    self._release(variable)
        self._garbage.collect()

    # Values.

    def _store(self, n: int, storage: StorageType, variables: Iterable) -> None:
        values = {}
        for variable in variables:
            if not self._is_kept(variable):
                pair = (_present(variable), variable.tlm_value)
                on_disk = storage == StorageType.DISK
                values[variable] = tuple(map(self._disk.put, pair)) if on_disk else pair
        self._stored[n, storage] = values

    def _load(self, action: Copy | Move) -> None:
        key = (action.n, action.from_storage)
        values = self._stored.pop(key) if isinstance(action, Move) else self._stored[key]
        for variable, pair in values.items():
            variable._checkpoint, variable.tlm_value = map(self._disk.get, pair)
        if self._tangent:
            for block in self._steps[action.n]:
                if isinstance(block, DirichletBCBlock):  # these hold what others have
                    self._move(block)

    def _release(self, variable: Any) -> None:
        if self._is_kept(variable):
            return
        if not isinstance(variable.output, fd.DirichletBC):  # that only names another variable
            variable._checkpoint = None
        variable.tlm_value = None

    def _is_input(self, variable: Any) -> bool:
        """Whether a variable's value is given, not computed."""
        return variable.creation_timestep < 0 or variable in self._controls

    def _is_kept(self, variable: Any) -> bool:
        """Whether a variable's value is never given up."""
        return self._is_input(variable) or isinstance(variable.output, AdjFloat)

    @staticmethod
    def _check(block: Any) -> None:
        """Raise where pyadjoint would take what the user's object holds now for a lost value."""
        for variable in block.get_dependencies():
            if variable.checkpoint is None and not isinstance(variable.output, _IMMUTABLE):
                raise RuntimeError(
                    f"the block '{block}' needs the value of {variable.output!r}, which no block "
                    "on the tape computes: do not call optimize_tape() under a schedule."
                )

    # The tape.

    @property
    def _steps(self) -> list:
        return self._tape.timesteps

    def _everything(self) -> Iterator[Any]:
        return iter(variables_of(self._tape.get_blocks()))

    def _marked(self) -> set[Any]:
        return {v for v in self._everything() if v.is_control}

    @contextmanager
    def _marked_as_controls(self) -> Iterator[None]:
        """Keep blocks from overwriting controls, also where pyadjoint does not mark them."""
        added = [v for v in self._controls if not v.is_control]
        for variable in added:
            variable.is_control = True
        try:
            yield
        finally:
            for variable in added:
                variable.is_control = False

    def _analyse(self) -> None:
        """Find the live variables, and what the schedule does, unless they are known."""
        size = (len(self._steps), len(self._tape.get_blocks()))
        if self._n_analysed != size:
            if self._n_analysed is None or self._n_analysed[0] != size[0]:
                self._actions = all_actions(self._schedule, len(self._steps))
            self._live = live_variables(self._steps)
            self._n_analysed = size


def _first_order(block: Any, markings: bool) -> None:
    block.evaluate_adj(markings=markings)


def _second_order(block: Any, markings: bool) -> None:
    block.evaluate_adj(markings=markings)
    block.evaluate_hessian(markings=markings)


def _present(variable: Any) -> Any:
    """A variable's value; where Firedrake has it refer to another variable's, that one's."""
    if isinstance(variable.output, fd.DirichletBC):
        return variable.checkpoint
    return variable.saved_output
