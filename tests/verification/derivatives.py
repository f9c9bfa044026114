"""What the tests of derivatives measure, at a point and in a direction."""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI
from pyadjoint.tape import set_working_tape
from pyadjoint.verification import taylor_to_dict

import femnn


@dataclass(frozen=True)
class Accuracy:
    """How well a functional's derivatives fit it.

    Attributes
    ----------
    gradient, hessian
        Orders of the remainder: 2 with the gradient, 3 with the Hessian's action as well.
    tangent
        The tangent-linear model's relative difference from the gradient.
    asymmetry
        The Hessian's.
    """

    gradient: float
    tangent: float
    hessian: float
    asymmetry: float


@dataclass(frozen=True)
class Point:
    """Where controls are, and a direction: the same on any number of ranks."""

    values: list[Any]
    direction: list[Any]

    @property
    def other(self) -> list[Any]:
        """Another direction."""
        pairs = zip(self.direction, self.values, strict=True)
        return [d._ad_mul(0.5)._ad_add(value) for d, value in pairs]


def model(*names: str, seed: int = 0) -> Callable:
    """Say of a function that records a model what :class:`Recording` asks.

    Parameters
    ----------
    *names
        Of the controls that it returns.
    seed
        Of points and directions for weights: one for which the functional's second and third
        derivative are not nearly zero, as an order cannot be seen then.
    """

    def mark(function):
        function.controls, function.seed = names, seed
        return function

    return mark


class Recording:
    """A model on a tape of its own, which several tests can use.  Collective.

    Parameters
    ----------
    model
        Called with ``comm``, returns a functional and its controls, which it names as
        ``model.controls``; ``model.seed`` is that of points and directions.
    comm
        The ranks.
    """

    def __init__(self, model: Callable, comm: Any = MPI.COMM_WORLD):
        self.model = model
        with set_working_tape() as self.tape:
            continue_annotation()
            self.J, self.controls = model(comm)
            pause_annotation()

    def of(self, *names: str) -> tuple[ReducedFunctional, Point, Point]:
        """The functional of some controls, where it was recorded and a place away from there."""
        chosen = [self.controls[self.model.controls.index(name)] for name in names]
        Jhat = ReducedFunctional(self.J, [Control(c) for c in chosen], tape=self.tape)
        return Jhat, *points(chosen, self.model.seed)

    def accuracy(self, *names: str) -> tuple[Accuracy, Accuracy]:
        """For some controls: where the tape was recorded, and away from it."""
        Jhat, here, away = self.of(*names)
        value = Jhat(here.values)
        assert np.isclose(value, self.J, rtol=1e-9), "the tape does not reproduce the model"
        try:
            return accuracy(Jhat, here), accuracy(Jhat, away)
        finally:
            Jhat(here.values)  # for the next controls


def points(controls: Sequence[Any], seed: int) -> tuple[Point, Point]:
    """Where the tape was recorded, and away from it."""
    rng = np.random.default_rng(seed)
    here, away, directions = zip(*(_points_of(c, rng) for c in controls), strict=True)
    return Point(list(here), list(directions)), Point(list(away), list(directions))


def _points_of(value: Any, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    if isinstance(value, femnn.Weights):
        away = value.like(value.vector + 0.3 * rng.standard_normal(len(value)))
        return value.like(value.vector), away, value.like(rng.standard_normal(len(value)))
    if isinstance(value, Constant):
        direction = Constant(np.full(value.ufl_shape, np.abs(value.dat.data_ro).max()))
        return value._ad_copy(), value._ad_mul(1.2), direction
    with stop_annotating():
        direction = Function(value.function_space())
        if value.ufl_element().family() == "Real":
            direction.assign(1.0)
        else:
            x = SpatialCoordinate(value.function_space().mesh())
            wave = cos(sum((3 + 2 * i) * x[i] for i in range(len(x))))
            direction.interpolate(wave if value.ufl_shape == () else as_vector([wave, -wave]))
            direction *= max(1.0, _largest(value))
        away = Function(value.function_space()).assign(value + 0.2 * direction)
        return value.copy(deepcopy=True), away, direction


def _largest(field: Function) -> float:
    with field.dat.vec_ro as values:
        return max(-values.min()[1], values.max()[1])


def dot_of(direction: list[Any], gradient: list[Any]) -> float:
    return sum(d._ad_dot(g) for d, g in zip(direction, gradient, strict=True))


def accuracy(Jhat: ReducedFunctional, at: Point) -> Accuracy:
    """Measure derivatives at a point; the controls of ``Jhat`` are a list.  Collective."""
    with contextlib.redirect_stdout(io.StringIO()):
        remainders = taylor_to_dict(Jhat, at.values, at.direction)
    slope = dot_of(at.direction, Jhat.derivative())
    tangent = abs(Jhat.tlm(at.direction) - slope) / abs(slope)
    one_way = dot_of(at.other, Jhat.hessian(at.direction))
    other_way = dot_of(at.direction, Jhat.hessian(at.other))
    return Accuracy(
        min(remainders["R1"]["Rate"]),
        tangent,
        min(remainders["R2"]["Rate"]),
        abs(one_way - other_way) / abs(one_way),
    )


def numbers_of(Jhat: ReducedFunctional, at: Point) -> tuple[np.ndarray, list[np.ndarray]]:
    """Value and derivatives at a point: what must not depend on the ranks.  Collective.

    Returns
    -------
    numbers
        The value, the tangent-linear model's, and for each control the direction's products
        with the gradient and with the Hessian's action.
    weights
        Gradients and Hessian actions of weights.
    """
    value = Jhat(at.values)
    gradient = Jhat.derivative()
    change = Jhat.tlm(at.direction)
    action = Jhat.hessian(at.direction)
    pairs = zip(at.direction * 2, [*gradient, *action], strict=True)
    products = [d._ad_dot(found) for d, found in pairs]
    vectors = [g.vector for g in (*gradient, *action) if isinstance(g, femnn.Weights)]
    return np.array([value, change, *products]), vectors
