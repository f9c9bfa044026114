"""Laplace's approximation: the posterior as a normal density around the most probable values."""

from __future__ import annotations

import warnings

from pyadjoint import ReducedFunctional

from femnn.inference.posterior import LaplacePosterior
from femnn.inference.terms import Terms
from femnn.training.settings import check_whole

HESSIANS = ("gauss-newton", "exact")
# So many standard deviations from the minimum the matrix is hardly that of the posterior.
NEAR = 0.1


def laplace(
    Jhat: ReducedFunctional, *, rank: int | None = None, hessian: str = "gauss-newton"
) -> LaplacePosterior:
    """The posterior of the controls, as a normal density around their values.  Collective.

    Its precision is the Gauss-Newton matrix or the Hessian of the functional, which is minus the
    logarithm of likelihood and prior.  Fit first: the values should be the most probable ones.

    Parameters
    ----------
    Jhat
        The functional, ``J = data.misfit(u) + prior.energy()``, with :class:`~femnn.Observations`
        and a prior for each control: :class:`~femnn.GaussianPrior` for weights and Constants,
        :class:`~femnn.FieldPrior` for fields.  Other terms that are convex, such as penalties of a
        law, count as parts of the prior where there are at most 2000 numbers and no schedule.
    rank
        How many directions to take that data say most of; all others have the prior's law.  By
        default all of at most 2000 numbers (under a schedule 200), and beyond as many as have
        eigenvalues above 0.01, of up to 100 data all that they say something of.
    hessian
        ``"gauss-newton"``, or ``"exact"`` for all second derivatives, for which the values must be
        at a minimum.

    Returns
    -------
    LaplacePosterior
        The same on every rank.

    Raises
    ------
    RuntimeError
        If the Hessian is not positive definite.
    TypeError
        If a control is of no known kind, or ``Jhat`` no functional of numbers.
    ValueError
        If the functional has no misfit of Observations, a misfit or an energy has a factor,
        a control has no prior, ``rank`` or ``hessian`` mean nothing; or of an ensemble the mean or
        a batch is taken, or a member's loss is more than its misfits.

    Warns
    -----
    UserWarning
        If the functional is not near a minimum.

    References
    ----------
    D. J. C. MacKay, Neural Computation 4 (1992); E. Daxberger et al., Laplace redux, NeurIPS 2021;
    T. Bui-Thanh, O. Ghattas, J. Martin, G. Stadler, SIAM J. Sci. Comput. 35 (2013), for low ranks.

    Examples
    --------
    >>> J = data.misfit(u) + GaussianPrior(kappa.weights).energy()
    >>> Jhat = ReducedFunctional(J, Control(kappa.weights))
    >>> fit(Jhat, "gauss-newton")
    >>> posterior = laplace(Jhat)
    >>> lower, upper = posterior.law(kappa, np.linspace(0, 1)).interval(0.9)
    """
    if hessian not in HESSIANS:
        raise ValueError(f"laplace got hessian={hessian!r}: wanted one of {list(HESSIANS)}.")
    terms, exact = Terms(Jhat, "laplace"), hessian == "exact"
    if rank is not None:
        check_whole("rank", rank, least=1, who="laplace")
        rank = rank if rank < len(terms.controls) else None
    posterior = LaplacePosterior(terms, terms.expand(rank=rank, exact=exact), exact)
    if posterior.distance > NEAR:
        warnings.warn(
            f"laplace: the minimum is about {posterior.distance:.2g} posterior standard deviations "
            "away: fit(Jhat, 'gauss-newton') first, or with more iterations.",
            stacklevel=2,
        )
    return posterior
