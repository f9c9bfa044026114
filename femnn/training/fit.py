"""Training: minimise a reduced functional over the weights of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pyadjoint import ReducedFunctional, stop_annotating

from femnn.training.history import Step
from femnn.training.optimisers import optimiser_of
from femnn.training.result import FitResult
from femnn.training.run import Run
from femnn.training.settings import Settings


def fit(
    Jhat: ReducedFunctional,
    method: str | torch.optim.Optimizer = "L-BFGS",
    *,
    maxiter: int = 200,
    gtol: float = 1e-10,
    ftol: float = 0.0,
    target: float | None = None,
    bounds: Any = None,
    learning_rate: float | None = None,
    options: Mapping[str, Any] | None = None,
    callback: Callable[[Step, np.ndarray], Any] | None = None,
    progress: bool = True,
) -> FitResult:
    """Minimise a reduced functional over the weights of one or more networks.  Collective.

    The networks end with the best weights that were seen, also after Ctrl-C, and the
    functional was evaluated there: ``Jhat.derivative()`` is the derivative at these weights.
    A forward solve that fails is a rejected step; any other error reaches the caller, with the
    best weights kept.

    Parameters
    ----------
    Jhat
        The functional; its controls must be ``Weights``.
    method
        ``"L-BFGS"`` (SciPy's L-BFGS-B), ``"Adam"`` (torch's), or a torch optimiser of
        parameters of the networks, with its own settings and parameter groups; step a scheduler
        in ``callback``.
    maxiter
        Number of iterations at most; with 0 the functional is evaluated and nothing changed.
    gtol
        Stop when the largest entry of the gradient is below.
    ftol
        L-BFGS stops when the loss falls by less than this fraction of it in an iteration.
    target
        Stop when the loss is at or below.
    learning_rate
        Adam's, 0.01 by default.
    options
        More options of :func:`scipy.optimize.minimize`'s L-BFGS-B (``maxcor``, ``maxfun``,
        ``maxls``), or of :class:`torch.optim.Adam` (``betas``, ``eps``, ``weight_decay``,
        ``amsgrad``, ``decoupled_weight_decay``).
    callback
        Called as ``callback(step, weights)`` after each iteration on every rank, and once
        before the first: ``step`` has ``iteration``, ``evaluations``, ``loss``,
        ``gradient_norm`` and ``seconds``, ``weights`` is a copy of the step's weights, shape
        ``(n_weights,)``, which the networks hold meanwhile.  A true return value stops the
        training; what it raises on one rank is raised on all.
    progress
        Whether rank 0 shows live progress.

    Returns
    -------
    FitResult
        The best weights and the loss there, why the training ended, and each iteration.

    Raises
    ------
    TypeError
        If ``Jhat`` is not a reduced functional that gives a number, a control is not a
        ``Weights``, or a setting is of another kind.
    ValueError
        If the method or an option is unknown, a setting is out of range or not used by the
        method, or an optimiser has parameters that are not the controls'; if nothing on the tape
        computes the functional, there is nothing to train, or a control shares a part of its
        parameters with another network of the model; if weights, loss or gradient at the start
        are not finite, or the gradient is zero.
    RuntimeError
        If the weights differ between ranks, or the callback has raised an error on another rank.
    firedrake.ConvergenceError
        If the first forward solve fails.

    References
    ----------
    R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, SIAM J. Sci. Comput. 16 (1995) for L-BFGS-B;
    D. P. Kingma, J. Ba, arXiv 1412.6980 for Adam.

    Examples
    --------
    >>> Jhat = ReducedFunctional(J, Control(kappa.weights))
    >>> result = fit(Jhat, maxiter=100, callback=lambda step, w: femnn.save(net, "net.safetensors"))
    >>> result = fit(Jhat, torch.optim.AdamW(net.parameters(), lr=1e-2), maxiter=500)
    """
    optimiser = optimiser_of(method)
    settings = Settings(
        maxiter, gtol, ftol, target, learning_rate, {} if options is None else options
    )
    name = method if isinstance(method, str) else type(method).__name__
    optimiser.check_settings(name, settings, bounds)
    with stop_annotating(), Run(Jhat, settings, callback, progress, bounds) as run:
        return run.minimise(optimiser)
