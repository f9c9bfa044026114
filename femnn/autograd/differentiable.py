"""The evaluation of a model on the tape as a function that torch can differentiate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from femnn.autograd.model import TapeModel


def evaluate(model: TapeModel, *tensors: Tensor) -> Tensor:
    """The model's result at these values of inputs and parameters.  Collective.

    Parameters
    ----------
    model
        The model, a ``TapeModel``.
    *tensors
        The inputs, then the parameters.

    Returns
    -------
    torch.Tensor
        In the dtype and on the device of the first tensor.
    """
    return _Evaluate.apply(model, *tensors)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(model: TapeModel, *tensors: Tensor) -> Tensor:
        values = model.run(tensors)
        return values.to(tensors[0].device, tensors[0].dtype) if tensors else values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        model, *tensors = inputs
        ctx.model, ctx.state = model, model.last_state
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple:
        return None, *_Gradient.apply(ctx.model, ctx.state, cotangent, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, model: TapeModel, *tensors: Tensor) -> tuple:
        samples = _samples(info.batch_size, in_dims[1:], tensors)
        return torch.stack([_Evaluate.apply(model, *sample) for sample in samples]), 0


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        model: TapeModel, state: dict | None, cotangent: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        gradients = model.gradients(state, tensors, cotangent)
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
