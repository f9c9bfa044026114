"""Networks that have some of their parameters in common: the weights of one follow another's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from pyadjoint import Block
from pyadjoint.tape import get_working_tape

from femnn.tape.nodes import is_on_tape


def introduce(weights: Any, known: Iterable[Any]) -> None:
    """Note with which of the known weights new ones share parameters, on both."""
    for other in known:
        if _common(weights, other):
            weights.sharing.add(other)
            other.sharing.add(weights)


def follow(weights: Any) -> None:
    """Let a network's weights follow those on the tape with which they share parameters.

    What is computed from the second of two such networks then depends on the first one's weights,
    too: a control on these gets the whole gradient.

    Parameters
    ----------
    weights
        The weights, which a block is about to depend on.
    """
    if not weights.sharing or is_on_tape(weights.block_variable):
        return
    shared = [(other, _common(weights, other)) for other in weights.sharing]
    sources = [(w, common) for w, common in shared if _is_source(weights, w, common)]
    if sources:
        node = weights.block_variable
        node.save_output()
        block = SharedParametersBlock(sources)
        block.add_output(node)
        get_working_tape().add_block(block)


Common = list[tuple[slice, slice]]


def _common(weights: Any, other: Any) -> Common:
    """Where the parameters that both have lie in the first and in the second vector."""
    mine, theirs = places_of(weights), places_of(other)
    return [(mine[key], theirs[key]) for key in mine if key in theirs]


def places_of(weights: Any) -> dict[int, slice]:
    """Where each parameter of a network lies in its weights, by the parameter's identity."""
    ends = np.cumsum([p.numel() for p in weights.parameters])
    return {
        id(p): slice(int(end) - p.numel(), int(end))
        for p, end in zip(weights.parameters, ends, strict=True)
    }


def _is_source(weights: Any, other: Any, common: Common) -> bool:
    """Whether the tape has the other weights, as they are now where both have them."""
    node = other._block_variable()
    if node is None or not is_on_tape(node):
        return False
    held, vector = node.saved_output.vector, weights.vector
    return all(np.array_equal(vector[mine], held[theirs]) for mine, theirs in common)


class SharedParametersBlock(Block):
    """The weights of a network, of which some are another network's.

    Parameters
    ----------
    sources
        Weights, each with where the common parameters lie in the block's output and in these.
    """

    def __init__(self, sources: list[tuple[Any, Common]]):
        super().__init__()
        taken: set[int] = set()  # each entry follows one source
        self._common: list[Common] = []
        for source, common in sources:
            self.add_dependency(source)
            self._common.append([pair for pair in common if pair[0].start not in taken])
            taken |= {mine.start for mine, _ in common}

    def __str__(self) -> str:
        return "shared parameters"

    def recompute(self, markings: bool = False) -> None:
        """As pyadjoint's, which leaves a control as it is."""
        self._is_taken()
        super().recompute(markings)

    def evaluate_adj(self, markings: bool = False) -> None:
        """As pyadjoint's; a control keeps its part."""
        if not self._is_taken():
            super().evaluate_adj(markings)

    def evaluate_tlm(self, markings: bool = False) -> None:
        """As pyadjoint's; a control keeps its own change."""
        if not self._is_taken():
            super().evaluate_tlm(markings)

    def evaluate_hessian(self, markings: bool = False) -> None:
        """As pyadjoint's; a control keeps its part."""
        if not self._is_taken():
            super().evaluate_hessian(markings)

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        known = block_variable.saved_output
        return known.like(self._gathered(inputs, known.vector.copy()))

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return self._scattered(adj_inputs[0], inputs[idx], idx)

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        known = block_variable.saved_output
        return known.like(self._gathered(tlm_inputs, np.zeros(len(known))))

    def evaluate_hessian_component(
        self,
        inputs: list,
        hessian_inputs: list,
        adj_inputs: list,
        block_variable: Any,
        idx: int,
        relevant_dependencies: list,
        prepared: Any = None,
    ) -> Any:
        return self._scattered(hessian_inputs[0], inputs[idx], idx)

    def _gathered(self, values: list, into: np.ndarray) -> np.ndarray:
        for value, common in zip(values, self._common, strict=True):
            for mine, theirs in common if value is not None else []:
                into[mine] = value.vector[theirs]
        return into

    def _scattered(self, cotangent: Any, source: Any, idx: int) -> Any:
        vector = np.zeros(len(source))
        for mine, theirs in self._common[idx]:
            vector[theirs] = cotangent.vector[mine]
        return source.like(vector)

    def _is_taken(self) -> bool:
        """Whether the weights that follow are a control, and so have values of their own.

        Raises
        ------
        ValueError
            If they are, and those that they share parameters with are none but count too.
        """
        node, *_ = self.get_outputs()
        if not node.is_control:
            return False
        for source in self.get_dependencies():
            if not source.is_control and self._meet(node, source):
                self._refuse(node.output, source.output)
        return True

    def _meet(self, node: Any, source: Any) -> bool:
        """Whether something is computed from both, not only through this block."""
        after: tuple[set, set] = ({node}, {source})
        for block in get_working_tape().get_blocks():
            for reached in after if block is not self else ():
                if any(bv in reached for bv in block.get_dependencies()):
                    reached.update(block.get_outputs())
        return not after[0].isdisjoint(after[1])

    def _refuse(self, weights: Any, source: Any) -> None:
        mine = {id(p) for p in source.parameters}
        names = ", ".join(name for name, p in weights.named_parameters() if id(p) in mine)
        raise ValueError(
            f"the weights of a {weights.name} are a control, and another {source.name} in the "
            f"model has {names}, too: value and derivative would be those of a part. Put networks "
            "that share parameters into one torch module with an output for each, or take the "
            "weights of the one that is used first in the model as the control."
        )
