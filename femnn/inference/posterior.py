"""Laplace's posterior of weights and Constants, and what it says of laws and predictions."""

from __future__ import annotations

import warnings
from typing import Any

import firedrake as fd
import numpy as np
from numpy.typing import ArrayLike
from pyadjoint import AdjFloat, ReducedFunctional
from torch import nn

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.evaluation.arrays import at_points
from femnn.evaluation.evaluator import PointEvaluator
from femnn.evaluation.jacobian import weight_jacobian
from femnn.inference.gaussian import Normal
from femnn.inference.terms import Expansion, Terms, residuals_of
from femnn.inference.worth import data_worth
from femnn.observation.table import Table
from femnn.parallel import vector_from_rank_zero
from femnn.tape.columns import tangent_matrix
from femnn.tape.model import is_computed_on
from femnn.tape.vector import Vector

# So many standard deviations from the minimum the matrix is hardly that of the posterior.
NEAR = 0.1


def laplace(Jhat: ReducedFunctional) -> LaplacePosterior:
    """The posterior of weights and Constants, as a normal density around their values.  Collective.

    Its precision is the Gauss-Newton matrix of the functional, which is minus the logarithm of
    likelihood and prior.  Fit first: the values should be the most probable ones.

    Parameters
    ----------
    Jhat
        The functional, ``J = data.misfit(u) + prior.energy()``, with :class:`~femnn.Observations`
        and a :class:`~femnn.GaussianPrior` for each control.  Other terms that are convex, such as
        penalties of a law, count as parts of the prior.  Controls are weights and Constants, some
        thousand numbers at most.

    Returns
    -------
    LaplacePosterior
        The same on every rank.

    Raises
    ------
    RuntimeError
        If the tape has no Gauss-Newton matrix, as under a schedule.
    TypeError
        If a control is neither weights nor a Constant, or ``Jhat`` no functional of numbers.
    ValueError
        If the functional has no misfit of Observations, a misfit or an energy has a factor, or
        a control has no prior.

    Warns
    -----
    UserWarning
        If the functional is not near a minimum.

    References
    ----------
    D. J. C. MacKay, Neural Computation 4 (1992); E. Daxberger et al., Laplace redux, NeurIPS 2021.

    Examples
    --------
    >>> J = data.misfit(u) + GaussianPrior(kappa.weights).energy()
    >>> Jhat = ReducedFunctional(J, Control(kappa.weights))
    >>> fit(Jhat, "gauss-newton")
    >>> posterior = laplace(Jhat)
    >>> lower, upper = posterior.law(kappa, np.linspace(0, 1)).interval(0.9)
    """
    terms = Terms(Jhat, "laplace")
    posterior = LaplacePosterior(terms, terms.expand())
    if posterior.distance > NEAR:
        warnings.warn(
            f"laplace: the minimum is about {posterior.distance:.2g} posterior standard deviations "
            "away: fit(Jhat, 'gauss-newton') first, or with more iterations.",
            stacklevel=2,
        )
    return posterior


class LaplacePosterior:
    """A normal posterior of weights and Constants; see :func:`femnn.laplace`.

    Entries are those of the controls, one after the other.

    Parameters
    ----------
    terms
        What the functional is the sum of.
    at
        The functional near the most probable values.

    Attributes
    ----------
    mean : numpy.ndarray
        The values of the controls, shape ``(n,)``.
    spectrum : numpy.ndarray
        Eigenvalues of the data's Gauss-Newton matrix in the prior's units, shape ``(n,)``, the
        largest first: directions above one are known by the data, those below by the prior.
    effective_parameters : float
        How many parameters the data determine, the sum of l / (1 + l) over the spectrum.
    n_data : int
        The number of data.
    chi_squared : float
        The sum of squared weighted residuals divided by the number of data.
    distance : float
        How far the minimum is away, in posterior standard deviations.
    """

    def __init__(self, terms: Terms, at: Expansion):
        self._terms, self._at = terms, at
        self._factor = vector_from_rank_zero(terms.controls.comm, at.gaussian.factor)
        self.mean, self.spectrum = at.vector.copy(), at.gaussian.spectrum
        self.effective_parameters = float(at.gaussian.shares.sum())
        squares = sum(float(residuals_of(b) @ residuals_of(b)) for b in terms.data)
        self.n_data = terms.n_data
        self.chi_squared = squares / self.n_data
        self.distance = float(np.linalg.norm(at.gaussian.factor.T @ at.gradient))

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of all entries, shape ``(n, n)``."""
        return self._factor @ self._factor.T

    @property
    def std(self) -> np.ndarray:
        """The standard deviation of each entry, shape ``(n,)``."""
        return np.sqrt((self._factor**2).sum(1))

    @property
    def log_evidence(self) -> float:
        """The logarithm of the marginal likelihood of the data, to compare models.

        Also called the log evidence.  Of several models of the same data that with the largest
        is the most probable one.

        Raises
        ------
        ValueError
            If a misfit has a loss that is not half the square.
        """
        return self._terms.log_evidence(self._at)

    def __repr__(self) -> str:
        return (
            f"LaplacePosterior({len(self.mean)} entries, {self.effective_parameters:.1f} effective "
            f"parameters, chi^2/n {self.chi_squared:.3g})"
        )

    def law(self, net: nn.Module | NeuralCoefficient, *inputs: ArrayLike) -> Normal:
        """The values of a law, with how sure they are.

        They are taken as linear in the weights around the mean.

        Parameters
        ----------
        net
            A network whose weights are among the controls, or a coefficient with one;
            ``Gradient(net)`` for the law's derivatives.
        *inputs
            One array for each input, of shapes that broadcast, as :func:`femnn.evaluate` takes
            them; rank-local.

        Returns
        -------
        Normal
            ``mean`` and ``std`` of the shape to which the inputs broadcast, with more than one
            output a last axis for these; ``quantile(0.95)``, ``interval(0.9)``.

        Raises
        ------
        ValueError
            If none of the network's weights are controls, or the inputs do not fit.
        """
        net = net.net if isinstance(net, NeuralCoefficient) else net
        evaluator, points, shape = at_points("law", net, inputs)
        places, known = self._places(evaluator)
        weights = evaluator.parameters.read()
        weights[known] = self.mean[places[known]]
        mean = evaluator.value(points, weights).reshape(shape)
        jacobian = weight_jacobian(evaluator, points, weights)[..., known]
        changes = jacobian @ self._factor[places[known]]
        return Normal(mean, np.linalg.norm(changes, axis=-1).reshape(shape))

    def predict(self, value: Any, noise: ArrayLike = 0.0) -> Normal:
        """A recorded value of the model, with how sure it is.  Collective.

        It is taken as linear in the controls around the mean.  The model has been run at the mean
        afterwards.

        Parameters
        ----------
        value
            A number, such as a functional; the values of stations or other observables, also of
            data that are held out, ``data.at(u)``; or a Function.  Recorded with the model.
        noise
            Standard deviation of a measurement's error, to be added: a number, or an array that
            broadcasts to the values' shape.

        Returns
        -------
        Normal
            ``mean`` and ``std``: Functions, or arrays of the values' shape, ``()`` for a number.

        Raises
        ------
        RuntimeError
            If the value has no derivative for all controls at once.
        TypeError
            If it is no number, vector of observations or Function.
        ValueError
            If the value is not on the tape.
        """
        tape = self._terms.Jhat.tape
        if not isinstance(value, (AdjFloat, Vector, fd.Function)):
            raise TypeError(
                f"predict got a {type(value).__name__}: wanted a recorded number, the values of "
                "an observable, as in stations(u), or a Function."
            )
        if not is_computed_on(value, tape):
            raise ValueError(
                "predict: no block on the functional's tape computes the value: record it with the "
                "model, between continue_annotation() and pause_annotation()."
            )
        mean = self._terms.evaluate(self.mean, value)
        tangent = tangent_matrix(value, self._terms.Jhat.controls, tape)
        if tangent is None:
            raise RuntimeError(
                "predict: the value has no derivative for all controls at once: record the model "
                "without enable_checkpointing, or run it at posterior.sample(n)."
            )
        std = np.linalg.norm(tangent @ self._factor, axis=1)
        if isinstance(value, fd.Function):
            return Normal(_field(mean), _with_noise(mean, std, noise))
        array = np.asarray(mean, dtype=float)
        return Normal(array.copy(), np.hypot(std.reshape(array.shape), noise))

    def data_worth(self, value: Any) -> Table:
        """How much surer a quantity is with the data of each place.  Collective.

        Parameters
        ----------
        value
            A recorded number, such as a functional, or the values of an observable; of these the
            root mean square of the standard deviations counts.

        Returns
        -------
        Table
            A row for each place that has data, and ``"all"``: ``std without`` these data, ``std
            alone`` with these and the prior only, and ``worth``, the part of the variance without
            them that they take away.  In the row of all the prior's, the posterior's, and both.

        Raises
        ------
        RuntimeError
            If the model has no derivative for all controls at once.
        TypeError
            If the value is no number or vector of observations.
        ValueError
            If the value is not on the tape.

        References
        ----------
        M. N. Fienen, J. E. Doherty, R. J. Hunt, H. W. Reeves: Using prediction uncertainty
        analysis to design hydrologic monitoring networks, USGS Sci. Invest. Rep. 2010-5159.

        Examples
        --------
        >>> print(posterior.data_worth(outflow))
        """
        return data_worth(self._terms, self._at, value)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Random values of the controls.  Collective.

        Parameters
        ----------
        n
            How many.
        seed
            Of numpy's random generator.

        Returns
        -------
        numpy.ndarray
            Shape ``(n, n_entries)``, the same on every rank.  ``Jhat(posterior.values(row))`` runs
            the model, ``kappa.weights.assign(row)`` gives them to a network.
        """
        draws = np.random.default_rng(seed).standard_normal((n, len(self.mean)))
        return vector_from_rank_zero(self._terms.controls.comm, self.mean + draws @ self._factor.T)

    def values(self, vector: np.ndarray) -> Any:
        """What the reduced functional is called with.  Collective.

        Parameters
        ----------
        vector
            Values of all controls, shape ``(n_entries,)``, such as a sample.

        Returns
        -------
        Weights, firedrake.Constant or list of these
            One for each control; a list where there are several.
        """
        return self._terms.controls.values(np.asarray(vector, dtype=float))

    def _places(self, evaluator: PointEvaluator) -> tuple[np.ndarray, np.ndarray]:
        """The place of each of a network's weights among the entries, and whether it has one."""
        starts = self._terms.parameter_places()
        pieces = [
            starts[id(p)] + np.arange(p.numel()) if id(p) in starts else np.full(p.numel(), -1)
            for p in evaluator.parameters.tensors
        ]
        places = np.concatenate([np.empty(0, dtype=int), *pieces])
        if not (places >= 0).any():
            raise ValueError(
                "law: none of the network's weights are controls of the functional: wanted a "
                "network, or a coefficient of one, whose weights it was made with."
            )
        return places, places >= 0


def _field(value: fd.Function) -> fd.Function:
    return value.copy(deepcopy=True)


def _with_noise(like: fd.Function, std: np.ndarray, noise: ArrayLike) -> fd.Function:
    """A field of standard deviations, from this rank's."""
    field = fd.Function(like.function_space())
    with field.dat.vec_wo as vector:
        vector.array[:] = np.hypot(std, noise)
    return field
