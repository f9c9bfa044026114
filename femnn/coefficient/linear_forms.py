"""Linear forms on the tape: Cofunctions with derivatives for all that they are assembled from."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import firedrake as fd
import ufl
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint
from pyadjoint.tape import get_working_tape, no_annotations, stop_annotating

from femnn.coefficient.functionals import KeptBlock, KeptFunctional
from femnn.fields.copies import copy_values, meshes_of


class KeptLinearForm:
    """A linear form L, kept as the functional L(w) of a Function w in its test function's place.

    The form is then the functional's derivative by w, and what the adjoint sends back is the
    functional's derivative where w is that.

    Parameters
    ----------
    form
        A form with one argument.
    """

    def __init__(self, form: ufl.Form):
        (test,) = form.arguments()
        self.space = test.function_space()
        with stop_annotating():
            self._w = fd.Function(self.space)
        self._kept = KeptFunctional(ufl.replace(form, {test: self._w}))
        self.dependencies = [d for d in self._kept.dependencies if d is not self._w]
        self.meshes = meshes_of(form)

    def value(self, dots: Mapping[Any, Any], values: Mapping[Any, Any]) -> fd.Cofunction:
        """The form, or its change in a direction.  Collective."""
        assembled = self._kept.derivative(self._w, dict(dots), dict(values))
        return fd.Cofunction(self.space.dual(), val=assembled.dat)

    def derivative(
        self, source: Any, w: Any, dots: Mapping[Any, Any], values: Mapping[Any, Any]
    ) -> Any:
        """The derivative of L(w) for one source, or its change in a direction.  Collective."""
        return self._kept.derivative(source, dict(dots), {**values, self._w: self._primal(w)})

    def _primal(self, w: Any) -> fd.Function:
        """A Function with an adjoint value, of which the blocks of Cofunctions make either kind."""
        return w if isinstance(w, fd.Function) else fd.Function(self.space, val=w.dat)


# Kept as long as a block on a tape uses it.
_kept: weakref.WeakValueDictionary[ufl.Form, KeptLinearForm] = weakref.WeakValueDictionary()


def assemble_and_record(form: ufl.Form, tensor: fd.Cofunction | None = None) -> fd.Cofunction:
    """Assemble a linear form, and record that.  Collective."""
    kept = _kept.get(form)
    if kept is None:
        kept = _kept[form] = KeptLinearForm(form)
    block = LinearFormBlock(kept)
    with stop_annotating():
        result = kept.value({}, {})
        if tensor is not None:
            copy_values(result, tensor)
            result = tensor
    get_working_tape().add_block(block)
    node = result.create_block_variable()
    block.add_output(node)
    return result


class LinearFormBlock(KeptBlock):
    """An assembled linear form."""

    def __init__(self, kept: KeptLinearForm):
        super().__init__(kept, kept.meshes)

    def __str__(self) -> str:
        return "assemble(linear form)"

    @no_annotations
    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        return maybe_disk_checkpoint(self.kept.value({}, self._values(inputs)))

    @no_annotations
    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return self.kept.value(self._dots(), self._values(inputs))

    def _carried(self, adjoint: Any, source: Any, dots: dict[Any, Any], inputs: list) -> Any:
        return self.kept.derivative(source, adjoint, dots, self._values(inputs))
