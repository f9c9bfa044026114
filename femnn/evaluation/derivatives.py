"""Derivatives of a batch of independent points.  Needs torch and numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Variation:
    """First-order changes of a network at this rank's points, in a direction.

    Attributes
    ----------
    values
        Shape ``(n_points, n_outputs)``.
    slope
        Of the derivatives, shape ``(n_points, n_outputs, n_inputs)``, where asked for.
    inputs
        Of the product of a fixed cotangent with the inputs' Jacobian, shape
        ``(n_points, n_inputs)``; zero where no cotangent was given.
    weights
        The same for the weights' Jacobian, this rank's sum, shape ``(n_weights,)``.
    """

    values: np.ndarray
    slope: np.ndarray | None
    inputs: np.ndarray
    weights: np.ndarray


def input_derivatives(
    outputs: Tensor, points: Tensor, keep_graph: bool = False, differentiable: bool = False
) -> Iterator[Tensor]:
    """d(output j)/d(inputs) for each j; the points are independent, so one sum does all."""
    n_outputs = outputs.shape[1]
    if not outputs.requires_grad:
        for _ in range(n_outputs):
            yield torch.zeros_like(points)
        return
    for j in range(n_outputs):
        (slope,) = torch.autograd.grad(
            outputs[:, j].sum(),
            points,
            retain_graph=keep_graph or j + 1 < n_outputs,
            create_graph=differentiable,
            allow_unused=True,
        )
        yield torch.zeros_like(points) if slope is None else slope


def along_directions(outputs: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The derivative of outputs along directions, itself differentiable.

    By two reverse sweeps: the product with the transposed Jacobian is linear in its
    cotangent, so its derivative with respect to it is the Jacobian's own product.  Modules
    that differentiate inside can be differentiated so, which torch's forward mode refuses.

    Parameters
    ----------
    outputs
        Computed from the places with gradients enabled.
    pairs
        Places (tensors that require gradients) and their directions.
    """
    if not pairs or not outputs.requires_grad:
        return torch.zeros_like(outputs)
    cotangent = torch.zeros_like(outputs, requires_grad=True)
    places, directions = zip(*pairs, strict=True)
    products = torch.autograd.grad(outputs, places, cotangent, create_graph=True, allow_unused=True)
    along = [(p * d).sum() for p, d in zip(products, directions, strict=True) if p is not None]
    if not along:
        return torch.zeros_like(outputs)
    (change,) = torch.autograd.grad(torch.stack(along).sum(), cotangent, create_graph=True)
    return change
