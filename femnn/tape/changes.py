"""Values that users have changed while the tape did not record."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from pyadjoint.block_variable import BlockVariable

from femnn.fields.copies import same_values, version
from femnn.parallel import any_rank_each

# Of a node: what it held when a block was recorded, and the version of the user's object then.
_known: weakref.WeakKeyDictionary[BlockVariable, tuple[weakref.ref, tuple]] = (
    weakref.WeakKeyDictionary()
)


def renew(dependencies: Sequence[Any], comm: Any) -> None:
    """Give those that were changed without a record a new node on the tape.  Collective.

    The tape would take the value that the node was recorded with, which is not the one that
    the block to be recorded has used.  Nodes whose value was exchanged since by evaluating a
    functional stay: they are its controls, or follow from these.

    Parameters
    ----------
    dependencies
        Functions and Constants.
    comm
        The ranks that share them.
    """
    changed = any_rank_each(comm, [_has_changed(d) for d in dependencies])
    for dependency, differs in zip(dependencies, changed, strict=True):
        if differs:
            dependency.clear_block_variable()


def remember(dependencies: Sequence[Any]) -> None:
    """Note what the nodes of a block's dependencies hold, when it has been recorded."""
    for dependency in dependencies:
        node = dependency.block_variable
        if node.checkpoint is not None:
            _known[node] = (weakref.ref(node.checkpoint), version(dependency))


def _has_changed(dependency: Any) -> bool:
    node = dependency._block_variable()
    if node is None or node not in _known:
        return False
    held, seen = _known[node]
    if node.checkpoint is None or held() is not node.checkpoint or seen == version(dependency):
        return False
    return not same_values(node.saved_output, dependency)
