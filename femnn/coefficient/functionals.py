"""Functionals on the tape, which keep what they have compiled."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint import AdjFloat
from pyadjoint.tape import get_working_tape, no_annotations, stop_annotating

from femnn.fields.copies import Mirrors, dependencies_of, meshes_of
from femnn.fields.cotangents import zero_cotangent
from femnn.fields.derivatives import (
    Direction,
    along,
    constant_gradient,
    entry_derivative,
    set_directions,
)
from femnn.fields.kept import KeptForms
from femnn.tape.meshes import OnMeshes
from femnn.tape.nodes import add_dependencies


def value_and_record(form: ufl.Form) -> AdjFloat:
    """Evaluate a functional of Functions and Constants, and record that.  Collective."""
    kept = _kept.get(form)
    if kept is None:
        kept = KeptFunctional(form)
        _kept[form] = kept
    block = FunctionalBlock(kept)
    with stop_annotating():
        value = AdjFloat(kept.value({}))
    get_working_tape().add_block(block)
    block.add_output(value.block_variable)
    return value


class KeptFunctional:
    """A functional in private copies, with assemblers of its value and derivatives.

    Parameters
    ----------
    form
        A form without arguments.
    """

    def __init__(self, form: ufl.Form):
        self.dependencies = dependencies_of(form)
        self.mirrors = Mirrors(self.dependencies)
        self.form = self.mirrors(form)
        self._directions = {s: Direction.like(c) for s, c in self.mirrors.copies.items()}
        self._assembler = KeptForms()

    def value(self, values: dict[Any, Any]) -> float:
        """The functional's value; the sources' own values where none are given.  Collective."""
        return self.change({}, values)

    def change(self, dots: dict[Any, Any], values: dict[Any, Any]) -> float:
        """The functional's change in a direction, its value where there is none.  Collective."""
        self.mirrors.load(values)
        return self._number("value", set_directions(self._directions, dots), lambda: self.form)

    def derivative(self, source: Any, dots: dict[Any, Any], values: dict[Any, Any]) -> Any:
        """The derivative for one source, or its change in a direction.  Collective.

        Returns
        -------
        Cofunction or numpy.ndarray
            An array for a Constant.
        """
        self.mirrors.load(values)
        moving = set_directions(self._directions, dots)
        copy = self.mirrors.copies[source]
        if isinstance(copy, fd.Constant):
            return constant_gradient(
                copy,
                lambda index: self._number(
                    (source, index), moving, partial(entry_derivative, self.form, copy, index)
                ),
            )
        cotangent = zero_cotangent(copy.function_space())
        assemble = self._kept(source, moving, partial(fd.derivative, self.form, copy))
        return cotangent if assemble is None else assemble(tensor=cotangent)

    def _number(self, key: Any, moving: list[Direction], make_form: Callable) -> float:
        assemble = self._kept(key, moving, make_form)
        return 0.0 if assemble is None else float(assemble())

    def _kept(self, key: Any, moving: list[Direction], make_form: Callable) -> Callable | None:
        """The assembler of a form, or of its change in a direction."""

        def form() -> ufl.Form:
            return along(make_form(), moving) if moving else make_form()

        return self._assembler((key, *map(id, moving)), form)


# Kept as long as a block on a tape uses it.
_kept: weakref.WeakValueDictionary[ufl.Form, KeptFunctional] = weakref.WeakValueDictionary()


class KeptBlock(OnMeshes):
    """What was assembled from a form that is kept, with values of its Functions and Constants.

    Subclasses carry an adjoint value to one of these in ``_carried``.

    Parameters
    ----------
    kept
        The form, with its ``dependencies``.
    meshes
        The form's.
    """

    def __init__(self, kept: Any, meshes: Iterable[Any], ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.kept = kept
        add_dependencies(self, kept.dependencies)
        self.stand_on(meshes)

    @no_annotations
    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return self._carried(adj_inputs[0], block_variable.output, {}, inputs)

    @no_annotations
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
        source, dots = block_variable.output, self._dots()
        result = self._carried(hessian_inputs[0], source, {}, inputs)
        if dots:
            if adj_inputs[0] is None:
                raise RuntimeError(
                    "hessian() found no derivative of its functional on the tape: none was taken, "
                    "or one of another functional since. Call derivative() of the same reduced "
                    "functional first."
                )
            result += self._carried(adj_inputs[0], source, dots, inputs)
        return result

    def _carried(self, adjoint: Any, source: Any, dots: dict[Any, Any], inputs: list) -> Any:
        """The derivative for one source, or its change in a direction.  Collective."""
        raise NotImplementedError

    def _dots(self) -> dict[Any, Any]:
        known = ((bv.output, bv.tlm_value) for bv in self.get_dependencies())
        return {source: dot for source, dot in known if dot is not None}

    def _values(self, inputs: list) -> dict[Any, Any]:
        return dict(zip(self.kept.dependencies, inputs, strict=False))


class FunctionalBlock(KeptBlock):
    """The value of a functional."""

    def __init__(self, kept: KeptFunctional, ad_block_tag: str | None = None):
        super().__init__(kept, meshes_of(kept.form), ad_block_tag)

    def __str__(self) -> str:
        return "assemble(functional)"

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> AdjFloat:
        return AdjFloat(self.kept.value(self._values(inputs)))

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> AdjFloat:
        return AdjFloat(self.kept.change(self._dots(), self._values(inputs)))

    def _carried(self, adjoint: Any, source: Any, dots: dict[Any, Any], inputs: list) -> Any:
        derivative = self.kept.derivative(source, dots, self._values(inputs))
        if isinstance(derivative, np.ndarray):
            return float(adjoint) * derivative
        with derivative.dat.vec as v:
            v.scale(float(adjoint))
        return derivative
