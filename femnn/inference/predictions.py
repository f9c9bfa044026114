"""How sure a recorded value is: by its derivative in all directions, or by adjoints and a solve."""

from __future__ import annotations

import warnings
from typing import Any

import firedrake as fd
import numpy as np
from numpy.typing import ArrayLike
from pyadjoint import AdjFloat
from pyadjoint.drivers import compute_derivative

from femnn.inference.gaussian import Directions, Gaussian, LowRank, Normal
from femnn.inference.low_rank import solve
from femnn.inference.smooth import unit_blocks
from femnn.inference.terms import Expansion, Terms
from femnn.parallel import vector_from_rank_zero
from femnn.tape.columns import tangent_matrix
from femnn.tape.model import is_computed_on
from femnn.tape.vector import Vector

# A standard deviation by a low rank that is further off is told.
CLOSE = 0.05


def predicted(terms: Terms, at: Expansion, value: Any, noise: ArrayLike, exact: bool) -> Normal:
    """A recorded value with how sure it is; see :meth:`femnn.LaplacePosterior.predict`."""
    if not isinstance(value, (AdjFloat, Vector, fd.Function)):
        raise TypeError(
            f"predict got a {type(value).__name__}: wanted a recorded number, the values of "
            "an observable, as in stations(u), or a Function."
        )
    if not is_computed_on(value, terms.Jhat.tape):
        raise ValueError(
            "predict: no block on the functional's tape computes the value: record it with the "
            "model, between continue_annotation() and pause_annotation()."
        )
    mean = terms.evaluate(at.vector, value)
    if isinstance(value, fd.Function):
        mean = mean.copy(deepcopy=True)
        return Normal(mean, with_noise(mean, field_std(terms, at.gaussian, value), noise))
    array = np.array(mean, dtype=float)
    std = numbers_std(terms, at, value, exact)
    return Normal(array, np.hypot(std.reshape(array.shape), noise))


def numbers_std(terms: Terms, at: Expansion, value: Any, exact: bool) -> np.ndarray:
    """The standard deviations of a recorded number or vector of these.  Collective.

    Parameters
    ----------
    terms
        What the functional is the sum of; the model has been run at the mean.
    at
        The expansion there.
    value
        The number or vector.
    exact
        Whether second derivatives are the whole Hessian.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_values,)``.
    """
    gaussian = at.gaussian
    if isinstance(gaussian, Gaussian):
        tangent = _tangent(terms, value, gaussian.factor)
        if tangent is not None:
            return np.linalg.norm(tangent, axis=1)
        return gaussian.spread(_gradients(terms, value))
    assert isinstance(gaussian, LowRank)
    gradients = _gradients(terms, value)
    std, known = _solved(terms, at, gradients, exact), gaussian.spread(gradients)
    off = np.abs(known - std).max(initial=0.0) / max(std.max(initial=0.0), np.finfo(float).tiny)
    if off > CLOSE:
        warnings.warn(
            f"predict: the {len(gaussian.spectrum)} directions of the posterior alone are wrong by "
            f"{off:.0%} for this value; its std is that of all directions. For laws and fields "
            f"take more: laplace(Jhat, rank={2 * len(gaussian.spectrum)}).",
            stacklevel=4,
        )
    return std


def _solved(terms: Terms, at: Expansion, gradients: np.ndarray, exact: bool) -> np.ndarray:
    """The standard deviations by all directions, of which no matrix is made."""
    gaussian, product = at.gaussian, terms.products(exact)
    assert isinstance(gaussian, LowRank)
    terms.evaluate(at.vector)
    if exact:
        terms.Jhat.derivative()
    comm, std = terms.controls.comm, []
    for g in vector_from_rank_zero(comm, gaussian.metric.gradient(gradients)).T:
        y = solve(lambda d: d + product(d), g, gaussian.inverse, comm)
        std.append(np.sqrt(max(float(g @ y), 0.0)))
    return vector_from_rank_zero(comm, np.array(std))


def _gradients(terms: Terms, value: Any) -> np.ndarray:
    """The derivative of each number, as columns of shape ``(n, n_values)``."""
    controls, tape = terms.Jhat.controls, terms.Jhat.tape
    seeds = [1.0] if isinstance(value, AdjFloat) else [value.like(e) for e in np.eye(len(value))]
    found = [compute_derivative(value, controls, tape, adj_value=seed) for seed in seeds]
    gradients = np.stack([terms.controls.flat(f) for f in found], axis=1)
    return vector_from_rank_zero(terms.controls.comm, gradients)


def field_std(terms: Terms, gaussian: Directions, value: fd.Function) -> np.ndarray:
    """The standard deviation of a recorded field, with the values that this rank owns.  Collective.

    Parameters
    ----------
    terms
        What the functional is the sum of; the model has been run at the mean.
    gaussian
        The posterior there.
    value
        The field.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_owned,)``.

    Raises
    ------
    RuntimeError
        If the tape has no derivative in many directions.
    """
    if isinstance(gaussian, Gaussian):
        return np.linalg.norm(_wanted(terms, value, gaussian.factor), axis=1)
    taken = _wanted(terms, value, gaussian.metric.point(gaussian.vectors))
    total = -(taken**2) @ gaussian.shares
    for block in unit_blocks(len(terms.controls)):
        total += (_wanted(terms, value, gaussian.metric.point(block)) ** 2).sum(1)
    return np.sqrt(np.maximum(total, 0.0))


def _tangent(terms: Terms, value: Any, directions: np.ndarray) -> np.ndarray | None:
    """The derivative of a value in directions of all controls, shape ``(n_values, n)``."""
    rows = terms.controls.rows(directions)
    return tangent_matrix(value, terms.Jhat.controls, terms.Jhat.tape, rows)


def _wanted(terms: Terms, value: Any, directions: np.ndarray) -> np.ndarray:
    tangent = _tangent(terms, value, directions)
    if tangent is None:
        raise RuntimeError(
            "predict: the field has no derivative in many directions at once: record the model "
            "without enable_checkpointing, or run it at posterior.sample(n)."
        )
    return tangent


def with_noise(like: fd.Function, std: np.ndarray, noise: ArrayLike) -> fd.Function:
    """A field of standard deviations, from this rank's, with a measurement's error."""
    field = fd.Function(like.function_space())
    with field.dat.vec_wo as vector:
        vector.array[:] = np.hypot(std, noise)
    return field
