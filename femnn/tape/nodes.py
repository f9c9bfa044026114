"""What the tape's nodes of users' values hold when something is recorded from these."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.adjoint_utils.checkpointing import CheckpointFunction
from pyadjoint.tape import get_working_tape

from femnn.fields.copies import same_values
from femnn.parallel import any_rank_each


def refresh(values: Iterable[Any]) -> None:
    """Let the nodes of values hold them, where the tape does not know the nodes yet.  Collective.

    pyadjoint keeps a value's node when a tape is cleared, with what it held then: what it was at
    the last evaluation of a functional, or before a change that was not recorded.  Derivatives of
    what is recorded next would be taken there.

    Parameters
    ----------
    values
        Functions, Constants and weights; others are passed over.
    """
    nodes = [v.block_variable for v in values if _has_a_value(v)]
    nodes = [node for node in nodes if node.checkpoint is not None]
    comms = [node.output.comm for node in nodes if isinstance(node.output, fd.Function)]
    comm = max(comms, key=lambda comm: comm.size, default=None)
    differ = any_rank_each(comm, [not _holds_present(node) for node in nodes])
    for node, differs in zip(nodes, differ, strict=True):
        if differs and not _is_on_tape(node):
            node.save_output()


def _has_a_value(value: Any) -> bool:
    """Whether the value is the user's, and not computed where it is used."""
    kinds = isinstance(value, (fd.Function, fd.Constant)) or hasattr(value, "vector")
    return kinds and not getattr(value, "_ad_floating_active", False)


def _holds_present(node: Any) -> bool:
    """Whether it does on this rank; what lies on disk is not read for that."""
    if isinstance(node.checkpoint, CheckpointFunction):
        return False
    value, held = node.output, node.saved_output
    if isinstance(value, (fd.Function, fd.Constant)):
        return same_values(value, held)
    return np.array_equal(value.vector, held.vector, equal_nan=True)


def _is_on_tape(node: Any) -> bool:
    """Whether a block has it, most likely one of the last."""
    return any(
        node is known
        for block in reversed(get_working_tape().get_blocks())
        for known in (*block.get_dependencies(), *block.get_outputs())
    )
