"""PDELayer: a reduced functional as a torch module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
import torch
from pyadjoint import AdjFloat, ReducedFunctional
from pyadjoint.enlisting import Enlist
from pyadjoint.tape import stop_annotating
from torch import Tensor, nn

from femnn.parallel import raise_on_all_ranks, same_on_ranks
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
        The reduced functional.  Its functional may be a number or a Function.

    Attributes
    ----------
    Jhat : ReducedFunctional
        The reduced functional.
    weights : torch.nn.ParameterList
        The trainable parameters of the networks inside.

    Raises
    ------
    TypeError
        If a control is neither ``Weights``, a Function nor a Constant.

    Notes
    -----
    **Ranks.**  A field's tensor is rank-local: the values of the degrees of freedom that the
    rank owns, in the order of ``Function.dat.data_ro``, shape ``(n_owned,)`` or
    ``(n_owned, *value_shape)``; so are its gradients.  Numbers, Constants and weights are the
    same on every rank, which is checked, and so are their gradients.  Hence a loss that the
    layer gives is not to be summed over ranks again.  From a field that the layer gives, each
    rank makes its own part of the loss and calls ``backward()`` on it: weights and Constants
    get the gradient of the sum of these parts.  A network outside that makes a field from
    rank-local data gets the rank's part of its gradient only: sum it over the ranks before the
    optimiser's step.  Forward and backward are collective.

    **Devices and dtypes.**  Values are computed in float64 on the CPU, and come back in the
    dtype and on the device of the first input (or parameter); each gradient in those of its
    tensor.

    **Samples.**  ``torch.vmap(layer)`` takes tensors with one more dimension, the samples, and
    evaluates one after the other.  ``torch.func.grad`` and ``functional_call`` work, ``vmap``
    over a gradient and forward mode (``torch.func.jvp``) do not.  Double backward is not
    possible: it raises an error; use ``Jhat.hessian`` for second derivatives.

    **Files.**  ``state_dict()`` holds the trainable weights of the networks inside.  Their
    buffers and frozen parameters are not the layer's: save a network with :func:`femnn.save`,
    or keep it as a submodule of the model beside the layer.

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
        controls = [c.control for c in Enlist(Jhat.controls)]
        for control in controls:
            if not isinstance(control, (Weights, fd.Function, fd.Constant)):
                raise TypeError(
                    f"PDELayer: a control is a {type(control).__name__}, wanted Weights, "
                    "Functions or Constants."
                )
        for field, what in [*((c, "control") for c in controls), (Jhat.functional, "result")]:
            if isinstance(field, fd.Function) and len(field.function_space()) > 1:
                raise TypeError(
                    f"PDELayer: the {what} {field.name()} is in a mixed space, whose values are "
                    "not one tensor: record the model with a Function for each part, which is "
                    "assigned to or from field.subfunctions."
                )
        self._controls = controls
        self.weights = nn.ParameterList(
            p for c in controls if isinstance(c, Weights) for p in c.parameters
        )
        self.register_load_state_dict_post_hook(_keep_parameters)
        self._comm = _largest_comm([*controls, Jhat.functional])
        self.last_state: dict | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "PDELayer: cannot be copied or pickled, as the model on the tape cannot be. Use one "
            "layer in all places, and save its state_dict()."
        )

    @property
    def n_inputs(self) -> int:
        """Number of tensors that :meth:`forward` takes."""
        return sum(not isinstance(c, Weights) for c in self._controls)

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
            A number, shape ``()``, or a Function's rank-local values.

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
        return _Evaluate.apply(self, *inputs, *self.weights)

    def evaluate(self, tensors: Sequence[Tensor]) -> Any:
        """Run the tape at these values, inputs first; its state is ``last_state``.  Collective."""
        values = self._values(tensors)
        with stop_annotating():
            result = self.Jhat(values if len(values) > 1 else values[0])
            tape = self.Jhat.tape
            self.last_state = None
            if tape._checkpoint_manager is None:
                self.last_state = tape.checkpoint_block_vars(Enlist(self.Jhat.controls))
        return result

    def gradients(
        self, state: dict | None, tensors: Sequence[Tensor], cotangent: Tensor
    ) -> list[Tensor]:
        """Gradients for all inputs and parameters at an earlier evaluation.  Collective."""
        # What else has run on the tape since then is not known here.
        if state is None:
            self.evaluate(tensors)
        else:
            self.Jhat.tape.restore_block_vars(state)
        with stop_annotating():
            derivatives = Enlist(self.Jhat.derivative(adj_input=self._adjoint_input(cotangent)))
        fields, weights = [], []
        for control, derivative in zip(self._controls, derivatives, strict=True):
            if isinstance(control, Weights):
                weights += control.split(derivative.vector)
            else:
                fields.append(_from_derivative(control, derivative))
        return fields + weights

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
                    arrays.append(_as_array(control, next(inputs)))
        except (TypeError, ValueError) as error:
            failure = error
        self._raise_failure(failure)
        both = list(zip(self._controls, arrays, strict=True))
        shared = (array for control, array in both if not isinstance(control, fd.Function))
        self._check_ranks(b"".join(a.tobytes() for a in shared), "weights or Constants")
        return [_as_value(control, array) for control, array in both]

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
        result = fd.Cofunction(functional.function_space().dual())
        data = result.dat.data_wo
        data[...] = cotangent.detach().cpu().double().numpy().reshape(data.shape)
        return result


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(layer: PDELayer, *tensors: Tensor) -> Tensor:
        result = layer.evaluate(tensors)
        first = tensors[0] if tensors else torch.zeros((), dtype=torch.float64)
        values = result.dat.data_ro.copy() if isinstance(result, fd.Function) else float(result)
        return torch.as_tensor(values, dtype=first.dtype, device=first.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        layer, *tensors = inputs
        ctx.layer, ctx.state = layer, layer.last_state
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple:
        return None, *_Gradient.apply(ctx.layer, ctx.state, cotangent, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, layer: PDELayer, *tensors: Tensor) -> tuple:
        samples = _samples(info.batch_size, in_dims[1:], tensors)
        return torch.stack([_Evaluate.apply(layer, *sample) for sample in samples]), 0


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        layer: PDELayer, state: dict | None, cotangent: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        gradients = layer.gradients(state, tensors, cotangent)
        return tuple(
            g.reshape(t.shape).to(t.device, t.dtype)
            for g, t in zip(gradients, tensors, strict=True)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Nothing is kept: there is no double backward."""

    @staticmethod
    def vmap(*args: Any) -> tuple:
        raise RuntimeError(
            "PDELayer: vmap over a gradient is not possible. Take the gradient of the sum over "
            "torch.vmap(layer)(samples): it holds each sample's."
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        raise RuntimeError(
            "PDELayer: double backward is not possible. Use Jhat.hessian for second derivatives "
            "of the model, and detach() what needs no second derivative."
        )


def _keep_parameters(layer: PDELayer, keys: Any) -> None:
    """``load_state_dict(assign=True)`` exchanges parameters; the networks keep their own."""
    own = [p for c in layer._controls if isinstance(c, Weights) for p in c.parameters]
    with torch.no_grad():
        for mine, loaded in zip(own, layer.weights, strict=True):
            mine.copy_(loaded)
    layer.weights = nn.ParameterList(own)


def _samples(size: int, dims: tuple, tensors: tuple[Tensor, ...]) -> list[list[Tensor]]:
    return [
        [t if d is None else t.select(d, i) for t, d in zip(tensors, dims, strict=True)]
        for i in range(size)
    ]


def _largest_comm(objects: list[Any]) -> Any:
    comms = [
        o.comm if isinstance(o, Weights) else o.function_space().mesh().comm
        for o in objects
        if isinstance(o, (Weights, fd.Function))
    ]
    return max(comms, key=lambda comm: comm.size, default=None)


def _as_array(control: Any, tensor: Tensor) -> np.ndarray:
    """A tensor's values; a ``TypeError`` or ``ValueError`` where they are not the control's."""
    if not tensor.is_floating_point():
        raise TypeError(
            f"PDELayer got a tensor of {tensor.dtype} for {control}, wanted a floating dtype: "
            "convert it with .double()."
        )
    values = tensor.detach().cpu().double().numpy()
    wanted = control.ufl_shape if isinstance(control, fd.Constant) else control.dat.data_ro.shape
    if values.shape != wanted:
        raise ValueError(
            f"PDELayer got a tensor of shape {values.shape} for {control}, wanted {wanted}"
            f"{'' if isinstance(control, fd.Constant) else ': the values this rank owns'}."
        )
    return values


def _as_value(control: Any, values: np.ndarray) -> Any:
    """A value of a control's kind.  Collective for Functions."""
    if isinstance(control, Weights):
        return control.like(values)
    if isinstance(control, fd.Constant):
        return fd.Constant(values)
    function = fd.Function(control.function_space())
    function.dat.data_wo[...] = values
    return function


def _from_derivative(control: Any, derivative: Any) -> Tensor:
    if isinstance(control, fd.Constant):
        return torch.as_tensor(np.array(derivative.dat.data_ro).reshape(control.ufl_shape))
    return torch.as_tensor(derivative.dat.data_ro.copy())
