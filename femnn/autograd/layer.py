"""PDELayer: a reduced functional as a torch module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import AdjFloat, ReducedFunctional
from pyadjoint.enlisting import Enlist
from pyadjoint.tape import stop_annotating
from torch import Tensor, nn

from femnn.autograd.differentiable import evaluate
from femnn.autograd.names import current_parameters, parameter_tree
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
from femnn.parallel import raise_on_all_ranks, same_on_ranks
from femnn.tape.ranks import largest_comm, values_on
from femnn.tape.weights import Weights


class PDELayer(nn.Module):
    """A recorded model as a torch module: tensors in, a loss or a field out.

    The controls of the reduced functional are the layer's inputs, except ``Weights``: these
    are the layer's parameters, the very ones of the networks inside the PDE.  So one torch
    optimiser trains the networks inside and those around it, and ``backward()`` fills the
    gradients of all.  Several forward calls may come before a backward.

    Parameters
    ----------
    Jhat
        The reduced functional.  Its functional may be a number, a Function or a Cofunction
        (an assembled residual).

    Attributes
    ----------
    Jhat : ReducedFunctional
        The reduced functional.
    networks : torch.nn.ModuleList
        For each ``Weights`` among the controls, in their order, the trainable parameters of
        its network under their names in it.

    Raises
    ------
    TypeError
        If a control is neither ``Weights``, a Function nor a Constant, or the functional is of
        another kind, or one of them is in a mixed space or a component of a vector field.

    Notes
    -----
    **Ranks.**  A field's tensor is rank-local: the values of the degrees of freedom that the
    rank owns, in the order of ``Function.dat.data_ro``, shape ``(n_owned,)`` or
    ``(n_owned, *value_shape)``; so are its gradients.  Numbers, Constants, Functions on the Real
    space and weights are the same on every rank, which is checked, and so are their gradients.
    Hence a loss that the layer gives is not to be summed over ranks again.  From a field that the
    layer gives, each rank makes its own part of the loss and calls ``backward()`` on it: weights
    and Constants get the gradient of the sum of these parts.  A network outside that makes a
    field from rank-local data gets the rank's part of its gradient only: sum it over the ranks
    before the optimiser's step.  Forward and backward are collective.

    **Devices and dtypes.**  Values are computed in float64 on the CPU, and come back in the
    dtype and on the device of the first input (or parameter); each gradient in those of its
    tensor.

    **Samples.**  ``torch.vmap(layer)`` takes tensors with one more dimension, the samples, and
    evaluates one after the other.  ``torch.func.grad`` and ``functional_call`` work, ``vmap``
    over a gradient and forward mode (``torch.func.jvp``) do not.  Double backward is not
    possible: it raises an error; use ``Jhat.hessian`` for second derivatives.

    **Names and files.**  ``named_parameters()`` and ``state_dict()`` name a weight as its network
    does, after ``networks.`` and the network's place among the ``Weights``:
    ``networks.0.layers.0.weight``.  A network takes its part by
    ``net.load_state_dict(layer.networks[0].state_dict())``, or from a file by the names without
    that prefix.  Buffers, frozen parameters and second names of a shared one are the network's
    own and not in the layer's state: where a network has such, load with ``strict=False``, and
    save it with :func:`femnn.save`, or keep it as a submodule of the model beside the layer.

    On a tape with checkpointing a backward recomputes the model first, as the tape holds the
    state of one evaluation only.

    Examples
    --------
    >>> layer = PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    >>> loss = layer(encoder(attributes))
    >>> loss.backward()
    """

    def __init__(self, Jhat: ReducedFunctional):
        super().__init__()
        self.Jhat = Jhat
        self._controls = [c.control for c in Enlist(Jhat.controls)]
        self._check_kinds()
        self._weights = [c for c in self._controls if isinstance(c, Weights)]
        self.networks = nn.ModuleList(parameter_tree(w.named_parameters()) for w in self._weights)
        self._comm = largest_comm([*self._controls, Jhat.functional, *values_on(Jhat.tape)])
        self.last_state: dict | None = None

    def _check_kinds(self) -> None:
        for control in self._controls:
            if not isinstance(control, (Weights, fd.Function, fd.Constant)):
                raise TypeError(
                    f"PDELayer: a control is a {type(control).__name__}, wanted Weights, "
                    "Functions or Constants."
                )
            self._check_field(control, "control")
        functional = self.Jhat.functional
        if not isinstance(functional, (AdjFloat, *FIELDS)):
            raise TypeError(
                f"PDELayer: the functional is a {type(functional).__name__}, wanted a number, a "
                "Function or a Cofunction."
            )
        self._check_field(functional, "result")

    @staticmethod
    def _check_field(value: Any, what: str) -> None:
        if isinstance(value, FIELDS):
            check_one_block(value.function_space(), "PDELayer", f"{what} {value.name()}")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "PDELayer: cannot be copied or pickled, as the model on the tape cannot be. Use one "
            "layer in all places, and save its state_dict()."
        )

    @property
    def n_inputs(self) -> int:
        """Number of tensors that :meth:`forward` takes."""
        return len(self._controls) - len(self._weights)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Evaluate the model.  Collective.

        Parameters
        ----------
        *inputs
            One tensor for each control that is not ``Weights``, in their order; fields are
            rank-local.

        Returns
        -------
        torch.Tensor
            A number, shape ``()``, or a field's rank-local values.

        Raises
        ------
        ValueError
            If the number or a shape of the inputs is not that of the controls.
        TypeError
            If an input is not a tensor or not of a floating dtype.
        RuntimeError
            If weights or Constants differ between ranks, or another rank has raised one of
            the above.
        firedrake.ConvergenceError
            If a solve fails.
        """
        self._raise_failure(self._wrong(inputs))
        pairs = zip(self._weights, self.networks, strict=True)
        parameters = [p for w, net in pairs for p in current_parameters(net, w.named_parameters())]
        return evaluate(self, *inputs, *parameters)

    def run(self, tensors: Sequence[Tensor]) -> Tensor:
        """Run the tape at these values, inputs first; its state is ``last_state``.  Collective."""
        values = self._values(tensors)
        with stop_annotating():
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
        with stop_annotating():
            derivatives = Enlist(self.Jhat.derivative(adj_input=self._adjoint_input(cotangent)))
        inputs, weights = [], []
        for control, derivative in zip(self._controls, derivatives, strict=True):
            if isinstance(control, Weights):
                weights += control.split(derivative.vector)
            else:
                inputs.append(tensor_of(derivative))
        return inputs + weights

    def _values(self, tensors: Sequence[Tensor]) -> list[Any]:
        """A value for each control; what is wrong on one rank is an error on all."""
        inputs, parameters = iter(tensors[: self.n_inputs]), iter(tensors[self.n_inputs :])
        arrays, failure = [], None
        try:
            for control in self._controls:
                if isinstance(control, Weights):
                    own = [next(parameters) for _ in control.parameters]
                    arrays.append(Weights.flatten(own))
                else:
                    arrays.append(checked_array(control, next(inputs)))
        except (TypeError, ValueError) as error:
            failure = error
        self._raise_failure(failure)
        both = list(zip(self._controls, arrays, strict=True))
        shared = (array for control, array in both if is_shared(control))
        self._check_ranks(b"".join(a.tobytes() for a in shared), "weights or Constants")
        return [like(control, array) for control, array in both]

    def _wrong(self, inputs: Sequence[Any]) -> Exception | None:
        """What is wrong with the inputs' number and kinds; rank-local."""
        if len(inputs) != self.n_inputs:
            return ValueError(
                f"PDELayer got {len(inputs)} inputs, wanted {self.n_inputs}: one for each control "
                "that is not Weights."
            )
        for tensor in inputs:
            if not isinstance(tensor, Tensor):
                return TypeError(
                    f"PDELayer got a {type(tensor).__name__}, wanted a torch.Tensor: "
                    "torch.as_tensor(x) makes one."
                )
        return None

    def _raise_failure(self, failure: Exception | None) -> None:
        """Raise on all ranks what is wrong on one.  Collective."""
        raise_on_all_ranks(
            self._comm, failure, "PDELayer: another rank got wrong inputs, see there."
        )

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
        return field_on(functional.function_space().dual(), numpy_of(cotangent))
