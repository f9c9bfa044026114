"""A normal posterior of weights, Constants and fields: laws, fields and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.inference.field_prior import FieldPrior
from femnn.inference.gaussian import Normal
from femnn.inference.predictions import predicted
from femnn.inference.summaries import Traces, TradeOff, law_of, traces, trade_offs
from femnn.inference.terms import Expansion, Terms
from femnn.inference.worth import data_worth
from femnn.observation.table import Table
from femnn.parallel import vector_from_rank_zero
from femnn.training.settings import check_whole


class LaplacePosterior:
    """A normal posterior of the controls; see :func:`femnn.laplace`.

    Entries are those of the controls, one after the other: of weights and Constants their numbers,
    of fields their degrees of freedom in the ranks' order.

    Parameters
    ----------
    terms
        What the functional is the sum of.
    at
        The functional near the most probable values.
    exact
        Whether second derivatives are the whole Hessian.

    Attributes
    ----------
    mean : numpy.ndarray
        The values of the controls, shape ``(n,)``.
    spectrum : numpy.ndarray
        Eigenvalues of the data's Gauss-Newton matrix in the prior's units, shape ``(k,)``, the
        largest first: directions above one are known by the data, those below by the prior.
    neglected : float
        The largest eigenvalue that is not among them, zero where all are: a variance is too large
        by at most its part ``neglected / (1 + neglected)``.
    effective_parameters : float
        How many parameters the data determine, the sum of l / (1 + l) over the spectrum.
    n_data : int
        The number of data.
    chi_squared : float
        The sum of squared weighted residuals divided by the number of data.
    distance : float
        How far the minimum is away, in posterior standard deviations.
    """

    def __init__(self, terms: Terms, at: Expansion, exact: bool = False):
        self.terms, self.at, self._exact = terms, at, exact
        self.gaussian = at.gaussian
        self.mean, self.spectrum = at.vector.copy(), at.gaussian.spectrum
        self.neglected = at.gaussian.neglected
        self.effective_parameters = float(at.gaussian.shares.sum())
        self._data = terms.summaries()
        self.n_data = sum(summary.n for summary in self._data)
        self.chi_squared = sum(summary.squares for summary in self._data) / self.n_data
        self.distance = float(at.gaussian.spread(at.gradient[:, None])[0])

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of all entries, shape ``(n, n)``."""
        half = self.gaussian.half(np.eye(len(self.mean)))
        return half.T @ half

    @property
    def std(self) -> np.ndarray:
        """The standard deviation of each entry, shape ``(n,)``."""
        return np.sqrt(self.gaussian.variances())

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
        return self.terms.log_evidence(self.at, self._data)

    def __repr__(self) -> str:
        rank = "" if not self.neglected else f", first neglected eigenvalue {self.neglected:.2g}"
        return (
            f"LaplacePosterior({len(self.mean)} entries, {self.effective_parameters:.1f} effective "
            f"parameters, chi^2/n {self.chi_squared:.3g}{rank})"
        )

    def parameters_by_control(self) -> np.ndarray:
        """How many parameters the data determine of each control.

        Returns
        -------
        numpy.ndarray
            Shape ``(n_controls,)``, in the order of the functional's controls; the sum is
            :attr:`effective_parameters` where no penalties count as parts of the prior.
        """
        known = self.gaussian.known_by_data()
        return np.array([known[place].sum() for place in self.terms.places])

    def of(self, control: Any) -> Normal:
        """A control with how sure it is.  Collective.

        Parameters
        ----------
        control
            Weights, a Constant or a Function among the controls.

        Returns
        -------
        Normal
            ``mean`` and ``std``: Functions of a field, arrays of shape ``(n,)`` of weights, of its
            shape of a Constant.

        Raises
        ------
        ValueError
            If it is none of the controls.
        """
        place = self._place(control)
        pair = self.mean[place], self.std[place]
        if isinstance(control, fd.Function):
            mean, std = (self._field(control, values) for values in pair)
            std.rename(f"std of {control.name()}")
            return Normal(mean, std)
        shape = getattr(control, "ufl_shape", (-1,))
        return Normal(*(values.reshape(shape) for values in pair))

    def trace(self, field: fd.Function) -> Traces:
        """The integrals of a field's variance over the domain.  Collective.

        Parameters
        ----------
        field
            A control with a :class:`~femnn.FieldPrior`.

        Returns
        -------
        Traces
            ``prior`` and ``posterior``, the traces of the covariance operators.

        Raises
        ------
        ValueError
            If it is no such control.
        """
        place = self._place(field)
        priors = [prior for where, prior in self.terms.priors if where == place]
        if not (priors and isinstance(priors[0], FieldPrior)):
            raise ValueError(f"trace: {field} has no FieldPrior: wanted a field with one.")
        return traces(self.gaussian, place, priors[0])

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
        mean, gradients = law_of(self.terms, self.mean, "law", net, inputs)
        return Normal(mean, self.gaussian.spread(gradients).reshape(mean.shape))

    def trade_offs(self, *laws: Sequence[Any], n: int = 3) -> list[TradeOff]:
        """What data tell least apart: joint changes of laws, the least sure first.

        Each law counts relative to how unsure the prior was of it.  Where two laws change together
        in one of these, and little of the prior's uncertainty is gone, the data do not tell which
        of both is right.

        Parameters
        ----------
        *laws
            For each law what :meth:`law` takes: ``(net, inputs)``, or with several inputs
            ``(net, *inputs)``; the inputs make a grid.
        n
            How many.

        Returns
        -------
        list of TradeOff
            Independent of each other: ``std`` and ``prior_std`` of how far it goes, and the laws'
            ``changes``, for one posterior standard deviation.

        Raises
        ------
        ValueError
            If none of a network's weights are controls, or the inputs do not fit.

        Examples
        --------
        >>> first = posterior.trade_offs((kappa, u), (source, u))[0]
        >>> first.ratio, first.changes
        """
        check_whole("n", n, least=1, who="trade_offs")
        found = [law_of(self.terms, self.mean, "trade_offs", net, x) for net, *x in laws]
        return trade_offs(self.gaussian, found, n)

    def predict(self, value: Any, noise: ArrayLike = 0.0) -> Normal:
        """A recorded value of the model, with how sure it is.  Collective.

        It is taken as linear in the controls around the mean.  The model has been run at the mean
        afterwards.  Where not all directions are known, each number's variance is found by
        conjugate gradients from them, and a field's from them alone.

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
            If a field has no derivative in many directions, as under a schedule.
        TypeError
            If it is no number, vector of observations or Function.
        ValueError
            If the value is not on the tape.

        Warns
        -----
        UserWarning
            If the known directions alone give a standard deviation that is wrong by more than 5 %.
        """
        return predicted(self.terms, self.at, value, noise, self._exact)

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
            If the value is not on the tape, or the posterior has a low rank.

        References
        ----------
        M. N. Fienen, J. E. Doherty, R. J. Hunt, H. W. Reeves: Using prediction uncertainty
        analysis to design hydrologic monitoring networks, USGS Sci. Invest. Rep. 2010-5159.

        Examples
        --------
        >>> print(posterior.data_worth(outflow))
        """
        return data_worth(self.terms, self.at, value)

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
            Shape ``(n, n_entries)``, the same on every rank; which fields, depends on the number of
            ranks, as their values' order does.  ``Jhat(posterior.values(row))`` runs the model,
            ``kappa.weights.assign(row)`` gives them to a network.
        """
        draws = np.random.default_rng(seed).standard_normal((n, len(self.mean)))
        samples = self.mean + self.gaussian.changes(draws.T).T
        return vector_from_rank_zero(self.terms.controls.comm, samples)

    def values(self, vector: np.ndarray) -> Any:
        """What the reduced functional is called with.  Collective.

        Parameters
        ----------
        vector
            Values of all controls, shape ``(n_entries,)``, such as a sample.

        Returns
        -------
        Weights, firedrake.Constant, firedrake.Function or list of these
            One for each control; a list where there are several.
        """
        return self.terms.controls.values(np.asarray(vector, dtype=float))

    def _place(self, control: Any) -> slice:
        for place, known in zip(self.terms.places, self.terms.objects, strict=True):
            if known is control:
                return place
        names = ", ".join(name for _, name, _ in self.terms.controls.description)
        raise ValueError(f"the posterior is of {names}: wanted one of these controls.")

    def _field(self, control: fd.Function, values: np.ndarray) -> fd.Function:
        vector = np.zeros(len(self.mean))
        vector[self._place(control)] = values
        index = [known is control for known in self.terms.objects].index(True)
        return self.terms.controls.objects(vector)[index]
