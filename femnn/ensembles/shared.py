"""What all members of an ensemble share: weights, Constants and fields, as rows of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import Control
from pyadjoint.block_variable import BlockVariable
from torch import nn

from femnn.ensembles.groups import Groups
from femnn.fields.cotangents import zero_cotangent
from femnn.parallel import same_on_ranks
from femnn.tape.numbers import numbers_of
from femnn.tape.weights import Weights


class Shared:
    """The controls that all members have in common.  Collective.

    Members are recorded from nodes of their own, so that what the tape around them knows of
    the same objects stays as it is.

    Parameters
    ----------
    controls
        Networks, ``Weights``, Constants and, where there is one group only, Functions; also
        pyadjoint's ``Control`` of these.
    groups
        The ranks.

    Attributes
    ----------
    objects : list
        What the user holds of each.

    Raises
    ------
    TypeError
        If one is of another kind.
    ValueError
        If there is none, or a field where there are several groups.
    RuntimeError
        If weights differ between ranks.
    """

    def __init__(self, controls: Any, groups: Groups):
        self._is_one = not isinstance(controls, (list, tuple))
        given = [controls] if self._is_one else controls
        self.objects = [_object_of(c) for c in given]
        self._riesz_maps = [getattr(c, "riesz_map", None) for c in given]
        self._groups = groups
        self._check_kinds()
        for weights in self.objects:
            if isinstance(weights, Weights):
                weights.check_ranks(groups.comm)
        self.sizes = [len(numbers_of(v)) for v in self.objects]
        ends = np.cumsum([0, *self.sizes]).tolist()
        self.places = [slice(a, b) for a, b in pairwise(ends)]
        self.nodes: list[BlockVariable] = []

    def __len__(self) -> int:
        return sum(self.sizes)

    def controls(self) -> list[Control] | Control:
        """They as pyadjoint's controls, by their present nodes; one where one was given."""
        pairs = zip(self.objects, self._riesz_maps, strict=True)
        controls = [Control(value, riesz_map=riesz) for value, riesz in pairs]
        return controls[0] if self._is_one else controls

    @property
    def has_fields(self) -> bool:
        """Whether a Function is among them."""
        return any(isinstance(v, fd.Function) for v in self.objects)

    @contextmanager
    def own_nodes(self) -> Iterator[None]:
        """Let what is recorded inside start from nodes of the members' own."""
        outside = [v.block_variable for v in self.objects]
        self.nodes = [v.create_block_variable() for v in self.objects]
        for node in self.nodes:
            node.save_output()
        try:
            yield
        finally:
            for value, known in zip(self.objects, outside, strict=True):
                value.block_variable = known

    def check_unchanged(self) -> None:
        """Raise where what was recorded from the members' own nodes has changed one.

        Raises
        ------
        RuntimeError
            If it has.
        """
        for value, node in zip(self.objects, self.nodes, strict=True):
            if value.block_variable is not node:
                raise RuntimeError(
                    f"ensemble: build changes {name_of(value)}, which is one of the controls that "
                    "all members share: wanted a build that only uses it."
                )

    def check_ranks(self, values: Sequence[Any], batch: Sequence[int]) -> None:
        """Raise where groups would be evaluated for something else each.  Collective."""
        known = self.flat(values).tobytes() + np.array(batch).tobytes()
        if self._groups.number > 1 and not same_on_ranks(self._groups.comm, known):
            raise RuntimeError(
                "ensemble: the controls' values, or the batches, differ between ranks: evaluate it "
                "at the same weights and Constants, and for the same members, on all ranks."
            )

    def flat(self, values: Sequence[Any]) -> np.ndarray:
        """The numbers of one value for each control in one row, rank-local for fields."""
        return np.concatenate([numbers_of(v) for v in values])

    def cotangents(self, flat: np.ndarray) -> list[Any]:
        """Derivatives, as the tape adds them up."""
        return [_cotangent(v, flat[p]) for v, p in zip(self.objects, self.places, strict=True)]

    def _check_kinds(self) -> None:
        if not self.objects:
            raise ValueError(
                "ensemble got no controls: wanted the networks (or Weights, Constants) that the "
                "members share, controls=[net]."
            )
        for value in self.objects:
            if not isinstance(value, (Weights, fd.Constant, fd.Function)):
                raise TypeError(
                    f"ensemble: a control is a {type(value).__name__}, wanted a network, Weights, "
                    "a Constant or a Function."
                )
            if isinstance(value, fd.Function) and self._groups.number > 1:
                raise ValueError(
                    f"ensemble: the control {value.name()} is a field, and {self._groups.number} "
                    "groups of ranks have meshes of their own: give ranks_per_member=comm.size, so "
                    "that all members are computed on all ranks, or make the field of a network."
                )
        if len({id(v) for v in self.objects}) < len(self.objects):
            raise ValueError("ensemble: a control is given twice: name each once.")


def name_of(value: Any) -> str:
    """A control's name, for messages."""
    return value.name() if isinstance(value, fd.Function) else value.name


def _object_of(control: Any) -> Any:
    """What the user holds, of a control in any form."""
    if isinstance(control, Control):
        return control.control
    return Weights.of(control) if isinstance(control, nn.Module) else control


def _cotangent(value: Any, numbers: np.ndarray) -> Any:
    if isinstance(value, Weights):
        return value.like(numbers)
    if isinstance(value, fd.Constant):
        return numbers.reshape(value.ufl_shape)
    cotangent = zero_cotangent(value.function_space())
    with cotangent.dat.vec_wo as vector:
        vector.array[:] = numbers
    return cotangent
