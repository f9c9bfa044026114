"""Gaussian priors of fields, by Firedrake's covariance operators or a differential operator."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
import ufl
from firedrake.adjoint.covariance_operator import AutoregressiveCovariance
from pyadjoint import AdjFloat
from pyadjoint.tape import annotate_tape, no_annotations

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.fields.copies import is_real
from femnn.inference.field_energy import FieldPriorBlock
from femnn.inference.smooth import Smooth, unit_blocks, variances
from femnn.parallel import from_rank_zero
from femnn.tape.vector import recorded
from femnn.training.layout import Layout

# The Robin condition's length in units of the correlation's (L. Roininen, J. M. J. Huttunen,
# S. Lasanen, Inverse Probl. Imaging 8 (2014)).
ROBIN = 1.42


class FieldPrior:
    """A normal density of a field, whose values are correlated in space.

    Add :meth:`energy` to minus the log likelihood.  :func:`femnn.fit` measures the field by this
    prior then, so that its iterations do not depend on the mesh; :func:`femnn.laplace` finds it.

    Parameters
    ----------
    control
        The field, a Function on a space with a mass matrix, such as continuous ones or DG.
    covariance
        Firedrake's :class:`AutoregressiveCovariance` on its space; or a bilinear form A of two
        arguments on it: the covariance is A^-1 M A^-T then, with the mass matrix M, which is
        that of a bilaplacian where A is elliptic of second order.
    mean
        A number, or a Function on the same space.
    precision
        A factor of the covariance's inverse.
    fixed
        Whether it is known; :func:`femnn.fit_with_evidence` estimates it otherwise.

    Attributes
    ----------
    control : firedrake.Function
        The field.
    names : tuple of str
        Its name, as its values have one precision in common.
    mean : numpy.ndarray
        The mean's values, shape ``(n,)``, the same on every rank.
    fixed : bool
        Whether the precision is known.
    metric : Smooth
        The precision as an inner product of vectors of the values.
    layout : Layout
        The values' places in these vectors.

    Raises
    ------
    TypeError
        If the control is no such field, or the covariance of another kind.
    ValueError
        If the covariance is of another space or has boundary conditions, its operator is singular,
        or mean or precision are not finite and positive.

    Notes
    -----
    Each rank has the factors of the operator's matrix and of the mass matrix.

    References
    ----------
    F. Lindgren, H. Rue, J. Lindstrom, J. R. Stat. Soc. B 73 (2011); T. Bui-Thanh, O. Ghattas,
    J. Martin, G. Stadler, SIAM J. Sci. Comput. 35 (2013).

    Examples
    --------
    >>> prior = FieldPrior(m, AutoregressiveCovariance(V, L=0.2, sigma=1.0, m=4))
    >>> J = data.misfit(u) + prior.energy()
    """

    @no_annotations
    def __init__(
        self,
        control: fd.Function,
        covariance: Any,
        mean: Any = 0.0,
        *,
        precision: float = 1.0,
        fixed: bool = True,
    ):
        _check_control(control)
        self.control, self.fixed = control, fixed
        self.layout = Layout(control)
        self.metric = Smooth(*_parts(control, covariance), self.layout)
        self.names = (control.name(),)
        self.mean = self._mean_of(mean)
        self.precision = precision

    @classmethod
    @no_annotations
    def bilaplacian(
        cls,
        control: fd.Function,
        gamma: float,
        delta: float,
        theta: Any = None,
        mean: Any = 0.0,
        *,
        robin: bool = True,
        precision: float = 1.0,
        fixed: bool = True,
    ) -> FieldPrior:
        """The prior whose covariance is (delta - gamma div(theta grad))^-2.

        Its correlation length is about ``sqrt(gamma / delta)``, its variance grows as
        ``1 / (gamma delta)`` falls in two dimensions.

        Parameters
        ----------
        control
            The field, continuous.
        gamma, delta
            Positive numbers.
        theta
            A symmetric and positive definite tensor in UFL for fields that are smoother in some
            directions; the identity by default.
        mean, precision, fixed
            As for :class:`FieldPrior`.
        robin
            Whether the operator has a Robin condition, against larger variances at the boundary;
            otherwise a natural one.

        Returns
        -------
        FieldPrior
            The prior.

        Raises
        ------
        TypeError
            If the control is no such field.
        ValueError
            If ``gamma`` or ``delta`` is not positive, or as for :class:`FieldPrior`.

        References
        ----------
        Y. Daon, G. Stadler, Inverse Probl. Imaging 12 (2018), for the boundary.

        Examples
        --------
        >>> prior = FieldPrior.bilaplacian(m, gamma=0.1, delta=0.5)
        """
        if not (gamma > 0 and delta > 0):
            raise ValueError(f"bilaplacian got gamma={gamma}, delta={delta}: wanted positive ones.")
        _check_control(control)
        space = control.function_space()
        u, v = fd.TrialFunction(space), fd.TestFunction(space)
        slope = fd.grad(u) if theta is None else ufl.dot(theta, ufl.grad(u))
        form = delta * fd.inner(u, v) * fd.dx + gamma * fd.inner(slope, fd.grad(v)) * fd.dx
        if robin:
            form += np.sqrt(gamma * delta) / ROBIN * fd.inner(u, v) * _boundary(space.mesh())
        return cls(control, form, mean, precision=precision, fixed=fixed)

    @property
    def precision(self) -> np.ndarray:
        """The factor of the covariance's inverse, shape ``(1,)``.

        What is recorded follows when its functional is evaluated next.

        Raises
        ------
        ValueError
            If another is given that is not one positive number.
        """
        return np.array([self.metric.precision])

    @precision.setter
    def precision(self, precision: Any) -> None:
        """Take another one."""
        array = np.asarray(precision, dtype=float)
        if array.shape not in ((), (1,)) or not np.isfinite(array).all() or not (array > 0).all():
            raise ValueError(
                f"FieldPrior: precision={precision!r}, wanted one positive number, which "
                "multiplies the inverse of the covariance."
            )
        self.metric.precision = float(array.item())

    def energy(self) -> AdjFloat:
        """Half the squared distance from the mean in the prior's units; recorded.  Collective.

        Minus the logarithm of the density, up to a constant.

        Returns
        -------
        AdjFloat
            The same on every rank.
        """
        if annotate_tape():
            return recorded(FieldPriorBlock(self))
        return AdjFloat(self.value(self.layout.vector(self.control)))

    def value(self, entries: np.ndarray) -> float:
        """The energy at given values.

        Parameters
        ----------
        entries
            Shape ``(n,)``, in the order of :attr:`mean`.

        Returns
        -------
        float
            Half a sum of squares.
        """
        z = self.metric.coordinates(entries - self.mean)
        return from_rank_zero(self.layout.comm, 0.5 * float(z @ z))

    @no_annotations
    def std(self) -> fd.Function:
        """The standard deviation at each degree of freedom.  Collective.

        Returns
        -------
        firedrake.Function
            On the control's space.  It takes a solve for each degree of freedom.
        """
        field = fd.Function(self.control.function_space(), name=f"std of {self.control.name()}")
        self.layout.store(np.sqrt(variances(self.metric, len(self))), field)
        return field

    def trace(self) -> float:
        """The integral of the variance over the domain, the covariance's trace.  Collective.

        Returns
        -------
        float
            The same on every rank.  It takes a solve for each degree of freedom.
        """
        blocks = unit_blocks(len(self))
        total = sum(self.metric.integrals(self.metric.point(e)).sum() for e in blocks)
        return from_rank_zero(self.layout.comm, float(total))

    def by_group(self, entries: np.ndarray) -> np.ndarray:
        """The sum over all values, as a group of one.

        Parameters
        ----------
        entries
            Shape ``(n,)``.

        Returns
        -------
        numpy.ndarray
            Shape ``(1,)``.
        """
        return np.array([entries.sum()])

    def __len__(self) -> int:
        return len(self.layout)

    def __repr__(self) -> str:
        return f"FieldPrior({self.names[0]}, {len(self)} values, {self.metric.precision:.3g})"

    def _mean_of(self, mean: Any) -> np.ndarray:
        if isinstance(mean, fd.Function):
            if mean.function_space() != self.control.function_space():
                raise ValueError(
                    f"FieldPrior: the mean {mean.name()} is on another space than "
                    f"{self.control.name()}: interpolate it."
                )
            values = self.layout.vector(mean)
        else:
            values = np.full(len(self.layout), float(mean))
        if not np.isfinite(values).all():
            raise ValueError("FieldPrior: the mean has values that are not finite.")
        return values


def _check_control(control: Any) -> None:
    if not isinstance(control, fd.Function) or isinstance(control, NeuralCoefficient):
        raise TypeError(
            f"FieldPrior got a {type(control).__name__}: wanted a Function that is a control. "
            "For weights of networks and Constants take GaussianPrior."
        )
    if any(is_real(part) for part in control.function_space().subspaces):
        raise TypeError(
            f"FieldPrior: {control.name()} is on a Real space: take a Constant and GaussianPrior."
        )


def _parts(control: fd.Function, covariance: Any) -> tuple[Any, int, float]:
    """The operator's form, the number of solves, and the weight."""
    space, name = control.function_space(), control.name()
    u, v = fd.TrialFunction(space), fd.TestFunction(space)
    if isinstance(covariance, ufl.Form):
        spaces = [a.function_space() for a in covariance.arguments()]
        if spaces != [space, space]:
            raise ValueError(
                f"FieldPrior: the form has {len(spaces)} arguments, or is on another space than "
                f"{name}: wanted a TestFunction and a TrialFunction on its space."
            )
        return covariance, 1, 1.0
    if not isinstance(covariance, AutoregressiveCovariance):
        raise TypeError(
            f"FieldPrior got a {type(covariance).__name__} as covariance: wanted Firedrake's "
            "AutoregressiveCovariance, or a bilinear form; FieldPrior.bilaplacian makes one."
        )
    if covariance.function_space() != space:
        raise ValueError(f"FieldPrior: the covariance is on another space than {name}.")
    if covariance.iterations == 0:
        return fd.inner(u, v) * fd.dx, 0, float(covariance.stddev)
    problem = covariance.solver._problem
    if problem.bcs:
        raise ValueError(
            "FieldPrior: the covariance has boundary conditions, where the field would have no "
            "density: leave out bcs, or take a form with a term on the boundary, * ds."
        )
    return problem.J, covariance.iterations // 2, float(covariance._weight)


def _boundary(mesh: fd.MeshGeometry) -> Any:
    """The measure of the whole boundary."""
    return fd.ds_v + fd.ds_t + fd.ds_b if mesh.extruded else fd.ds
