"""The optimisers by the names that users give."""

from __future__ import annotations

import torch

from femnn.training.lbfgs import LBFGS
from femnn.training.newton import GAUSS_NEWTON, NEWTON_CG
from femnn.training.run import Optimiser
from femnn.training.tao import TAO
from femnn.training.torch_steps import ADAM, of_instance

OPTIMISERS: dict[str, Optimiser] = {
    "L-BFGS": LBFGS,
    "Adam": ADAM,
    "gauss-newton": GAUSS_NEWTON,
    "newton-cg": NEWTON_CG,
    **TAO,
}


def optimiser_of(method: str | torch.optim.Optimizer) -> Optimiser:
    """The optimiser of this name, or a torch optimiser as one."""
    if isinstance(method, torch.optim.Optimizer):
        return of_instance(method)
    if method not in OPTIMISERS:
        raise ValueError(
            f"fit: method={method!r} is unknown, use one of {sorted(OPTIMISERS)} or a torch "
            "optimiser of the networks' parameters."
        )
    return OPTIMISERS[method]
