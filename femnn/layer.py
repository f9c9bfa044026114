"""PDELayer: a reduced functional as a torch module."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
import torch
from pyadjoint import AdjFloat, ReducedFunctional
from pyadjoint.enlisting import Enlist
from pyadjoint.tape import stop_annotating
from torch import Tensor, nn

from femnn.weights import Weights


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

    Raises
    ------
    TypeError
        If a control is neither ``Weights``, a Function nor a Constant.

    Notes
    -----
    Fields are rank-local: a tensor holds the values of the degrees of freedom that the rank
    owns, in the order of ``Function.dat.data_ro``, shape ``(n_owned,)`` or
    ``(n_owned, *value_shape)``; so are their gradients.  Numbers, Constants and weights are
    the same on every rank, and so are their gradients.  A loss is therefore not to be summed
    over ranks again.  Values are computed in float64 on the CPU, and come back in the dtype
    and on the device of the first input (or parameter).  Double backward is not possible: it
    raises an error; use ``Jhat.hessian`` for second derivatives.

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
        self._controls = controls
        self.weights = nn.ParameterList(
            p for c in controls if isinstance(c, Weights) for p in c.parameters
        )
        self._evaluations = 0

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
        firedrake.ConvergenceError
            If a solve fails.
        """
        if len(inputs) != self.n_inputs:
            raise ValueError(
                f"PDELayer got {len(inputs)} inputs, wanted {self.n_inputs}: one for each control "
                "that is not Weights."
            )
        return _Evaluate.apply(self, *inputs, *self.weights)

    def evaluate(self, tensors: tuple[Tensor, ...]) -> tuple[Any, dict]:
        """Run the tape at these values; the result and the state of the tape."""
        inputs, parameters = tensors[: self.n_inputs], list(tensors[self.n_inputs :])
        remaining, values = list(inputs), []
        for control in self._controls:
            if isinstance(control, Weights):
                own = [parameters.pop(0) for _ in control.parameters]
                values.append(control.like(_flat(own)))
            else:
                values.append(_as_value(control, remaining.pop(0)))
        with stop_annotating():
            result = self.Jhat(values if len(values) > 1 else values[0])
            self._evaluations += 1
            state = self.Jhat.tape.checkpoint_block_vars(Enlist(self.Jhat.controls))
        return result, state

    def gradients(self, state: dict, number: int, cotangent: Tensor) -> list[Tensor]:
        """Gradients for all inputs and parameters at the state of an earlier evaluation."""
        if number != self._evaluations:
            self.Jhat.tape.restore_block_vars(state)
            self._evaluations += 1
        with stop_annotating():
            derivatives = Enlist(self.Jhat.derivative(adj_input=self._adjoint_input(cotangent)))
        fields, weights = [], []
        for control, derivative in zip(self._controls, derivatives, strict=True):
            if isinstance(control, Weights):
                weights += control.split(derivative.vector)
            else:
                fields.append(_from_derivative(control, derivative))
        return fields + weights

    def _adjoint_input(self, cotangent: Tensor) -> Any:
        functional = self.Jhat.functional
        if isinstance(functional, AdjFloat):
            return float(cotangent)
        result = fd.Cofunction(functional.function_space().dual())
        data = result.dat.data_wo
        data[...] = cotangent.detach().cpu().double().numpy().reshape(data.shape)
        return result


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: PDELayer, *tensors: Tensor) -> Tensor:
        result, state = layer.evaluate(tensors)
        ctx.layer, ctx.state, ctx.number = layer, state, layer._evaluations
        ctx.save_for_backward(*tensors)
        first = tensors[0] if tensors else torch.zeros((), dtype=torch.float64)
        values = result.dat.data_ro.copy() if isinstance(result, fd.Function) else float(result)
        return torch.as_tensor(values, dtype=first.dtype, device=first.device)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple:
        tensors = ctx.saved_tensors
        return None, *_Gradient.apply(ctx.layer, ctx.state, ctx.number, cotangent, *tensors)


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layer: PDELayer, state: dict, number: int, cotangent: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        gradients = layer.gradients(state, number, cotangent)
        return tuple(
            g.reshape(t.shape).to(t.device, t.dtype)
            for g, t in zip(gradients, tensors, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        raise RuntimeError(
            "PDELayer: double backward is not possible. Use Jhat.hessian for second derivatives "
            "of the model, and detach() what needs no second derivative."
        )


def _flat(tensors: list[Tensor]) -> np.ndarray:
    return torch.cat([t.detach().reshape(-1).cpu().double() for t in tensors]).numpy()


def _as_value(control: Any, tensor: Tensor) -> Any:
    values = tensor.detach().cpu().double().numpy()
    wanted = control.ufl_shape if isinstance(control, fd.Constant) else control.dat.data_ro.shape
    if values.shape != wanted:
        raise ValueError(
            f"PDELayer got a tensor of shape {values.shape} for {control}, wanted {wanted}"
            f"{'' if isinstance(control, fd.Constant) else ': the values this rank owns'}."
        )
    if isinstance(control, fd.Constant):
        return fd.Constant(values)
    function = fd.Function(control.function_space())
    function.dat.data_wo[...] = values
    return function


def _from_derivative(control: Any, derivative: Any) -> Tensor:
    if isinstance(control, fd.Constant):
        return torch.as_tensor(np.array(derivative.dat.data_ro).reshape(control.ufl_shape))
    return torch.as_tensor(derivative.dat.data_ro.copy())
