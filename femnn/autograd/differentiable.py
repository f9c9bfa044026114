"""The evaluation of a model on the tape as a function that torch can differentiate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def evaluate(layer: Any, *tensors: Tensor) -> Tensor:
    """The layer's result at these values of inputs and parameters.  Collective.

    Parameters
    ----------
    layer
        Has ``run(tensors)``, which returns the result in float64 and leaves the tape's state as
        ``last_state``, and ``gradients(state, tensors, cotangent)``.
    *tensors
        The inputs, then the parameters.

    Returns
    -------
    torch.Tensor
        In the dtype and on the device of the first tensor.
    """
    return _Evaluate.apply(layer, *tensors)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(layer: Any, *tensors: Tensor) -> Tensor:
        values = layer.run(tensors)
        return values.to(tensors[0].device, tensors[0].dtype) if tensors else values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        layer, *tensors = inputs
        ctx.layer, ctx.state = layer, layer.last_state
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple:
        return None, *_Gradient.apply(ctx.layer, ctx.state, cotangent, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, layer: Any, *tensors: Tensor) -> tuple:
        samples = _samples(info.batch_size, in_dims[1:], tensors)
        return torch.stack([_Evaluate.apply(layer, *sample) for sample in samples]), 0


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        layer: Any, state: dict | None, cotangent: Tensor, *tensors: Tensor
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


def _samples(size: int, dims: tuple, tensors: tuple[Tensor, ...]) -> list[list[Tensor]]:
    return [
        [t if d is None else t.select(d, i) for t, d in zip(tensors, dims, strict=True)]
        for i in range(size)
    ]
