"""Linear forms on the tape: Cofunctions with derivatives for all that they are assembled from."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import firedrake as fd
import ufl
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint
from pyadjoint.tape import get_working_tape, no_annotations, stop_annotating

from femnn.coefficient.functionals import KeptFunctional
from femnn.fields.copies import copy_values, meshes_of
from femnn.tape.meshes import OnMeshes
from femnn.tape.nodes import add_dependencies


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


class LinearFormBlock(OnMeshes):
    """An assembled linear form."""

    def __init__(self, kept: KeptLinearForm):
        super().__init__()
        self.kept = kept
        add_dependencies(self, kept.dependencies)
        self.stand_on(kept.meshes)

    def __str__(self) -> str:
        return "assemble(linear form)"

    @no_annotations
    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        return maybe_disk_checkpoint(self.kept.value({}, self._values(inputs)))

    @no_annotations
    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        source = block_variable.output
        return self.kept.derivative(source, adj_inputs[0], {}, self._values(inputs))

    @no_annotations
    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return self.kept.value(self._dots(), self._values(inputs))

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
        source, dots, values = block_variable.output, self._dots(), self._values(inputs)
        result = self.kept.derivative(source, hessian_inputs[0], {}, values)
        if dots and adj_inputs[0] is not None:
            result += self.kept.derivative(source, adj_inputs[0], dots, values)
        return result

    def _dots(self) -> dict[Any, Any]:
        known = ((bv.output, bv.tlm_value) for bv in self.get_dependencies())
        return {source: dot for source, dot in known if dot is not None}

    def _values(self, inputs: list) -> dict[Any, Any]:
        return dict(zip(self.kept.dependencies, inputs, strict=False))
