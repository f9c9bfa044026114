"""The readings in a flow past a cylinder, what is to be predicted, and the model that is fitted."""

from collections.abc import Callable

import numpy as np
import torch
from firedrake import *

import femnn

from .model import (
    DURATION,
    MESH,
    Reactor,
    difference_in_time,
    flow,
    misfit,
    observe,
    predict,
    scaled,
    stations,
    truth,
    visited,
    weighted_difference,
)


class Experiment:
    """What was measured, with half as wide cells and half as long steps; the model; its errors.

    Parameters
    ----------
    steps
        Of the model in time.
    seed
        Of the noise.
    duration
        Of the run.

    Attributes
    ----------
    mesh, velocity
        Of the model.
    places
        The sensors in its mesh.
    readings, deviation
        At the sensors, and each species' noise in them.
    exact, outflow
        c after each step with other sources, and how much of C flows out.
    states, area
        a and b at all nodes and steps of the run with the true law, and the nodes' areas.
    """

    def __init__(self, steps: int, seed: int, duration: float = DURATION):
        self.steps, self.duration = steps, duration
        self.mesh, finer = MeshHierarchy(Mesh(str(MESH)), 1)
        self.velocity = flow(self.mesh)
        fine = Reactor(flow(finer), 2 * steps, truth, duration=duration)
        self.readings, self.deviation = observe(fine, femnn.Stations(finer, stations()), seed)
        self.exact, self.outflow = predict(fine, self.mesh)
        self.places = femnn.Stations(self.mesh, stations())
        self.states, self.area = visited(self.reactor(truth))

    def reactor(self, law: Callable, **options) -> Reactor:
        """The model with a law."""
        return Reactor(self.velocity, self.steps, law, duration=self.duration, **options)

    def misfit(self, reactor: Reactor):
        """To the readings; on the tape."""
        return misfit(reactor, self.places, self.readings, self.deviation)

    def predict(self, law: Callable) -> tuple[list[Function], list[float]]:
        """With other sources: c after each step, and what of it flows out."""
        return predict(self.reactor(law))

    def prediction_error(self, found: list[Function]) -> float:
        """Relative L2 error of a predicted c in space and time."""
        return difference_in_time(found, self.exact)

    def rate_error(self, net: torch.nn.Module, power: int) -> float:
        """Relative error of a law where the run with the true law goes."""
        found = rate_at(net, power, self.states)
        return weighted_difference(found, truth(*self.states.T), self.area)


def rate_at(net: torch.nn.Module, power: int, states: np.ndarray) -> np.ndarray:
    """A law at rows of a and b: a network with a power of a b before it."""
    return scaled(femnn.evaluate(net, *states.T), *states.T, power)
