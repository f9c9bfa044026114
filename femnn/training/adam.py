"""Torch's Adam, whose steps are halved where the forward solve fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from femnn.training.result import Outcome
from femnn.training.run import Optimiser, Run

LEARNING_RATE = 1e-2

OPTIONS = ("amsgrad", "betas", "decoupled_weight_decay", "eps", "weight_decay")


def minimise(run: Run) -> Outcome:
    """Take Adam's steps; a rejected one is tried again with half its length."""
    weights = torch.nn.Parameter(torch.from_numpy(run.loss.last.vector.copy()))
    rate = run.settings.learning_rate or LEARNING_RATE
    optimiser = torch.optim.Adam([weights], lr=rate, **run.settings.options)
    good, rejected = weights.detach().clone(), run.loss.rejected
    for _ in range(run.settings.maxiter):
        if run.loss.rejected > rejected:
            _halve_step(optimiser, weights, good)
        else:
            gradient = run.loss.last.gradient
            if np.abs(gradient).max(initial=0.0) <= run.settings.gtol:
                return run.small_gradient()
            good = weights.detach().clone()
            weights.grad = torch.from_numpy(gradient.copy())
            optimiser.step()
        rejected = run.loss.rejected
        run(weights.detach().numpy())
        if run.loss.rejected == rejected:
            run.accept(weights.detach().numpy())
    return run.out_of_iterations()


def check(options: Mapping[str, Any]) -> None:
    """Let torch look at the options."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], **options)


def _halve_step(
    optimiser: torch.optim.Optimizer, weights: torch.Tensor, good: torch.Tensor
) -> None:
    """Back to the middle between the last good point and the failed one, with half the rate."""
    with torch.no_grad():
        weights.copy_((weights + good) / 2)
    for group in optimiser.param_groups:
        group["lr"] /= 2


ADAM = Optimiser(minimise, uses=("learning_rate",), options=OPTIONS, check=check)
