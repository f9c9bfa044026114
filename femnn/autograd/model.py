"""A reduced functional between tensors: its values, and its gradients at earlier ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.adjoint_utils.checkpointing import disk_checkpointing
from pyadjoint import AdjFloat, ReducedFunctional
from pyadjoint.enlisting import Enlist
from pyadjoint.tape import stop_annotating
from torch import Tensor

from femnn.autograd.values import (
    FIELDS,
    check_one_block,
    checked_array,
    field_on,
    is_shared,
    like,
    numpy_of,
    tensor_of,
)
from femnn.evaluation.parameters import ParameterVector
from femnn.parallel import raise_on_all_ranks, same_on_ranks
from femnn.tape.model import largest_comm, values_behind
from femnn.tape.vector import Vector
from femnn.tape.weights import Weights


class _Given(fd.Function):
    """A value for a run of the tape.  Nobody changes it, so the tape keeps it without a copy."""

    def _ad_create_checkpoint(self) -> Any:
        return super()._ad_create_checkpoint() if disk_checkpointing() else self


class TapeModel:
    """A reduced functional whose controls are given as tensors, inputs before parameters.

    Parameters
    ----------
    Jhat
        The reduced functional.

    Attributes
    ----------
    weights : list of Weights
        The controls that are weights of networks; their parameters are the model's.
    n_inputs : int
        Number of the other controls, which are its inputs.
    last_state : dict or None
        The tape's state after the last run; ``None`` where it cannot be kept.
    """

    def __init__(self, Jhat: ReducedFunctional):
        self.Jhat = Jhat
        self._controls = [c.control for c in Enlist(Jhat.controls)]
        self._check_kinds()
        self.weights = [c for c in self._controls if isinstance(c, Weights)]
        self.n_inputs = len(self._controls) - len(self.weights)
        behind = list(values_behind(Jhat.functional, Jhat.tape))
        self._comm = largest_comm([*self._controls, Jhat.functional, *behind])
        self.last_state: dict | None = None

    def run(self, tensors: Sequence[Tensor]) -> Tensor:
        """Run the tape at these values, inputs first; sets ``last_state``.  Collective."""
        values = self._values(tensors)
        with stop_annotating(), self._unfrozen():
            result = self.Jhat(values if len(values) > 1 else values[0])
            tape = self.Jhat.tape
            self.last_state = None
            if tape._checkpoint_manager is None:
                self.last_state = tape.checkpoint_block_vars(Enlist(self.Jhat.controls))
        return tensor_of(result)

    def gradients(
        self, state: dict | None, tensors: Sequence[Tensor], cotangent: Tensor
    ) -> list[Tensor]:
        """Gradients for all inputs and parameters at an earlier evaluation.  Collective."""
        # What else has run on the tape since then is not known here.
        if state is None:
            self.run(tensors)
        else:
            self.Jhat.tape.restore_block_vars(state)
        with stop_annotating(), self._unfrozen():
            derivatives = Enlist(self.Jhat.derivative(adj_input=self._adjoint_input(cotangent)))
        inputs, weights = [], []
        for control, derivative in zip(self._controls, derivatives, strict=True):
            if isinstance(control, Weights):
                weights += control.split(derivative.vector)
            else:
                inputs.append(tensor_of(derivative))
        return inputs + weights

    @contextmanager
    def _unfrozen(self) -> Iterator[None]:
        """Frozen parameters are torch's business: it asks for no gradient of them.

        Elsewhere to freeze what a coefficient was made with is an error, as it would be trained.
        """
        frozen = [p for w in self.weights for p in w.parameters if not p.requires_grad]
        for p in frozen:
            p.requires_grad_(True)
        try:
            yield
        finally:
            for p in frozen:
                p.requires_grad_(False)

    def raise_failure(self, failure: Exception | None) -> None:
        """Raise on all ranks what is wrong on one.  Collective."""
        raise_on_all_ranks(
            self._comm, failure, "PDELayer: another rank got wrong inputs, see there."
        )

    def _check_kinds(self) -> None:
        for control in self._controls:
            if not isinstance(control, (Weights, fd.Function, fd.Constant)):
                raise TypeError(
                    f"PDELayer: a control is a {type(control).__name__}, wanted Weights, "
                    "Functions or Constants."
                )
            self._check_field(control, "control")
        functional = self.Jhat.functional
        if not isinstance(functional, (AdjFloat, Vector, *FIELDS)):
            raise TypeError(
                f"PDELayer: the functional is a {type(functional).__name__}, wanted a number, "
                "values at stations, a Function or a Cofunction."
            )
        self._check_field(functional, "result")

    @staticmethod
    def _check_field(value: Any, what: str) -> None:
        if isinstance(value, FIELDS):
            check_one_block(value.function_space(), "PDELayer", f"{what} {value.name()}")

    def _values(self, tensors: Sequence[Tensor]) -> list[Any]:
        """A value for each control; what is wrong on one rank is an error on all."""
        inputs, parameters = iter(tensors[: self.n_inputs]), iter(tensors[self.n_inputs :])
        arrays, failure = [], None
        try:
            for control in self._controls:
                if isinstance(control, Weights):
                    own = [next(parameters) for _ in control.parameters]
                    arrays.append(ParameterVector.flatten(own))
                else:
                    arrays.append(checked_array(control, next(inputs)))
        except (TypeError, ValueError) as error:
            failure = error
        self.raise_failure(failure)
        both = list(zip(self._controls, arrays, strict=True))
        shared = (array for control, array in both if is_shared(control))
        self._check_ranks(b"".join(a.tobytes() for a in shared), "weights or Constants")
        return [_given(control, array) for control, array in both]

    def _check_ranks(self, data: bytes, what: str) -> None:
        if self._comm is not None and not same_on_ranks(self._comm, data):
            raise RuntimeError(
                f"PDELayer: {what} differ between ranks: all ranks must hold the same. Give the "
                "networks outside the same seed and the same data on every rank, and sum the "
                "gradients of those that work on rank-local data."
            )

    def _adjoint_input(self, cotangent: Tensor) -> Any:
        functional = self.Jhat.functional
        if isinstance(functional, AdjFloat):
            factor = float(cotangent)
            self._check_ranks(np.float64(factor).tobytes(), "the factors of the loss")
            return factor
        if isinstance(functional, Vector):
            factors = numpy_of(cotangent)
            self._check_ranks(factors.tobytes(), "the gradients of the loss for the values")
            return functional.like(factors)
        return field_on(functional.function_space().dual(), numpy_of(cotangent))


def _given(control: Any, array: np.ndarray) -> Any:
    """A new value for a control.  Collective for fields."""
    if not isinstance(control, fd.Function):
        return like(control, array)
    return field_on(control.function_space(), array, _Given)
