"""Torch's optimisers: Adam by its name, and any that the user has made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from femnn.training.metrics import Joined
from femnn.training.result import Outcome
from femnn.training.run import Optimiser, Run

LEARNING_RATE = 1e-2

OPTIONS = ("amsgrad", "betas", "decoupled_weight_decay", "eps", "weight_decay")


class Place(Protocol):
    """Where a torch optimiser finds the controls' values and their gradient."""

    def present(self) -> np.ndarray:
        """The values as they are, shape ``(n,)``."""

    def write(self, vector: np.ndarray) -> None:
        """Set the values."""

    def set_gradient(self, gradient: np.ndarray) -> None:
        """Set the gradient, shape ``(n,)``."""


class _Flat:
    """One parameter that holds all values in float64; its gradient is the Riesz representer.

    Adam divides each entry by its own size, so it must see a field's values and not coordinates,
    whose size depends on the mesh.
    """

    def __init__(self, vector: np.ndarray, metric: Joined):
        self.parameter = nn.Parameter(torch.from_numpy(vector.copy()))
        self._metric = metric

    def present(self) -> np.ndarray:
        return self.parameter.detach().numpy().copy()

    def write(self, vector: np.ndarray) -> None:
        with torch.no_grad():
            self.parameter.copy_(torch.from_numpy(vector))

    def set_gradient(self, gradient: np.ndarray) -> None:
        self.parameter.grad = torch.from_numpy(self._metric.representer(gradient).copy())


def by_adam(run: Run) -> Outcome:
    """Adam's steps on all values as one parameter."""
    place = _Flat(run.loss.last.vector, run.loss.controls.metric)
    rate = run.settings.learning_rate or LEARNING_RATE
    return _descend(
        run, torch.optim.Adam([place.parameter], lr=rate, **run.settings.options), place
    )


def by_instance(run: Run, optimiser: torch.optim.Optimizer) -> Outcome:
    """The steps of an optimiser of the networks' own parameters, in its groups."""
    controls = run.loss.controls
    if not controls.are_weights:
        raise ValueError(
            f"fit: the optimiser {type(optimiser).__name__} moves parameters of networks, and a "
            "control is a Function or a Constant: take method='Adam' or 'L-BFGS', or leave it out "
            "of the controls."
        )
    known = {id(p) for p in controls.parameters}
    foreign = [p for group in optimiser.param_groups for p in group["params"] if id(p) not in known]
    if foreign:
        raise ValueError(
            f"fit: the optimiser {type(optimiser).__name__} has {len(foreign)} parameters that are "
            "not the controls': make it of those of the networks whose weights are the controls, "
            "as in torch.optim.AdamW(net.parameters())."
        )
    try:
        return _descend(run, optimiser, controls)
    finally:
        optimiser.zero_grad(set_to_none=True)


def _descend(run: Run, optimiser: torch.optim.Optimizer, place: Place) -> Outcome:
    """Take steps; a rejected one is tried again with half its length."""

    def closure() -> float:
        value, gradient = run(place.present())
        place.set_gradient(gradient)
        return value

    if run.known is not None:
        optimiser.load_state_dict(run.known["optimiser"])
        place.write(run.known["present"].numpy())
    run.remember(
        lambda: {
            "optimiser": copy.deepcopy(optimiser.state_dict()),
            "present": torch.tensor(place.present()),
        }
    )
    good, rejected, tries = place.present(), False, run.left
    for _ in range(tries):
        if rejected:
            _halve_step(optimiser, place, good)
        else:
            good = run.loss.last.vector.copy()
            place.write(good)  # a callback may have changed it
            optimiser.step(closure)
        vector, before = place.present(), run.loss.rejected
        run(vector)
        rejected = run.loss.rejected > before
        if not rejected:
            run.accept(vector)
    return run.out_of_iterations()


def _halve_step(optimiser: torch.optim.Optimizer, place: Place, good: np.ndarray) -> None:
    """Back to the middle between the last good point and the failed one, with half the rate."""
    place.write((place.present() + good) / 2)
    for group in optimiser.param_groups:
        group["lr"] = group["lr"] / 2


def _check_adam(options: Mapping[str, Any]) -> None:
    """Let torch look at the options."""
    torch.optim.Adam([nn.Parameter(torch.zeros(1))], **options)


def _check_none(options: Mapping[str, Any]) -> None:
    """An instance has its options already."""


ADAM = Optimiser(
    by_adam, uses=("learning_rate",), options=OPTIONS, check=_check_adam, remembers=True
)


def of_instance(optimiser: torch.optim.Optimizer) -> Optimiser:
    """A torch optimiser that the user has made."""
    minimise = partial(by_instance, optimiser=optimiser)
    return Optimiser(minimise, uses=(), options=(), check=_check_none, remembers=True)
