"""A tape that runs by a schedule, and the function that makes it the working tape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from checkpoint_schedules import CheckpointSchedule
from pyadjoint import Tape
from pyadjoint.tape import get_working_tape, set_working_tape

from femnn.tape.replay import Replay


def enable_checkpointing(schedule: CheckpointSchedule, directory: str | None = None) -> Tape:
    """Let the working tape store and recompute time steps by a schedule.

    Call it before anything is recorded, and write the time loop as
    ``for step in tape.timestepper(iter(range(N)))``.  Gradients, tangent-linear models and
    Hessian actions are those of the plain tape, at any controls.

    Parameters
    ----------
    schedule
        A schedule of the package ``checkpoint_schedules``.  It is used up: each tape needs
        one of its own.
    directory
        Where checkpoints on disk go, a folder that exists; the system's folder for temporary
        files by default.  Each rank writes files of its own, and removes them.

    Returns
    -------
    pyadjoint.Tape
        The working tape from now on.  One that was taken with ``get_working_tape()`` before is
        not it, and says so when it is used.

    Raises
    ------
    RuntimeError
        If the tape has blocks already.
    TypeError
        If ``schedule`` is not a schedule.
    """
    if not isinstance(schedule, CheckpointSchedule):
        raise TypeError(
            f"enable_checkpointing got a {type(schedule).__name__}: wanted a schedule of the "
            "package checkpoint_schedules, for example Revolve(n_steps, n_checkpoints)."
        )
    before = get_working_tape()
    if before.get_blocks():
        raise RuntimeError(
            f"enable_checkpointing: the tape has {len(before.get_blocks())} blocks already. Call "
            "it before anything is recorded, or clear the tape first (tape.clear_tape())."
        )
    tape = before if isinstance(before, ScheduledTape) else _in_place_of(before)
    tape._checkpoint_manager = Replay(tape, schedule, directory)
    return tape


def _in_place_of(before: Tape) -> ScheduledTape:
    """A new working tape instead of an empty one."""
    if type(before) is not Tape:
        raise TypeError(f"enable_checkpointing: the working tape is a {type(before).__name__}.")
    tape = ScheduledTape(package_data=before._package_data)
    tape.progress_bar = before.progress_bar
    set_working_tape(tape)
    before._checkpoint_manager = _Replaced()
    return tape


class ScheduledTape(Tape):
    """A tape whose derivatives all follow a schedule, while it has one.

    pyadjoint asks a tape's manager where it runs a model or its adjoint, but not for the
    tangent-linear model and second derivatives, nor for what is kept of a step.
    """

    __slots__ = ()

    def add_to_checkpointable_state(self, block_var: Any, last_used: int) -> None:
        """Hold what is new, which nobody else does before the block has it.

        pyadjoint's lists of each step's data are not kept: they grow with the square of the steps.
        """
        if self._checkpoint_manager is None:
            super().add_to_checkpointable_state(block_var, last_used)
        elif last_used < 0:
            self.timesteps[-1].checkpointable_state.add(block_var)

    def add_to_adjoint_dependencies(self, block_var: Any, last_used: int) -> None:
        """Nothing under a schedule: the adjoint needs what its blocks use."""
        if self._checkpoint_manager is None:
            super().add_to_adjoint_dependencies(block_var, last_used)

    def evaluate_tlm(self, markings: bool = False) -> None:
        """The tangent-linear model, in the direction that the controls have."""
        if self._checkpoint_manager is None:
            super().evaluate_tlm(markings)
        else:
            self._checkpoint_manager.evaluate_tlm(markings)

    def evaluate_hessian(self, markings: bool = False) -> None:
        """The Hessian's action, in the direction that the controls have."""
        if self._checkpoint_manager is None:
            super().evaluate_hessian(markings)
        else:
            self._checkpoint_manager.evaluate_hessian(markings)

    def checkpoint_block_vars(self, controls: Iterable = (), tag: Any = None) -> dict:
        """The controls' values, from which all others follow."""
        if self._checkpoint_manager is None:
            return super().checkpoint_block_vars(controls, tag)
        state: dict[Any, Any] = {c.block_variable: c.block_variable.checkpoint for c in controls}
        return {**state, "package_data": {}}

    def restore_block_vars(self, block_vars: dict) -> None:
        """Go back to controls' values."""
        if self._checkpoint_manager is None:
            super().restore_block_vars(block_vars)
            return
        for variable, value in block_vars.items():
            if variable != "package_data":
                variable._checkpoint = value
        self._checkpoint_manager.forget()


class _Replaced:
    """The manager of a tape that a scheduled one has replaced: tells whoever still uses it."""

    def _refuse(self, *args: Any) -> NoReturn:
        raise RuntimeError(
            "this tape was taken before femnn.enable_checkpointing, which has made another one the "
            "working tape: use the tape that it returns (tape = femnn.enable_checkpointing(...)), "
            "or get_working_tape() after it."
        )

    end_timestep = recompute = evaluate_adj = _refuse
