"""Training: minimise a reduced functional over weights of networks, fields and Constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyadjoint import ReducedFunctional, stop_annotating

from femnn.training.history import Step
from femnn.training.optimisers import optimiser_of
from femnn.training.result import FitResult
from femnn.training.resumption import keeping_of
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
    patience: float | None = 10.0,
    callback: Callable[[Step, np.ndarray], Any] | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 20,
    resume: bool = False,
) -> FitResult:
    """Minimise a reduced functional over weights, fields and Constants.  Collective.

    Controls may be ``Weights`` of networks, Functions of any space and Constants of any shape:
    coefficients, sources, boundary values, initial states.  They end with the best values that
    were seen, also after Ctrl-C, and the functional was evaluated there: ``Jhat.derivative()``
    is the derivative at these values.  A forward solve that fails is a rejected step; any other
    error reaches the caller, with the best values kept.

    They start from what the networks, Functions and Constants hold; a Function or Constant that
    the tape has changed after it became a control, from its value there (``Control.tape_value``).

    A field's gradient is measured in the inner product of its control's ``riesz_map``, so that
    the iterations do not depend on the mesh: ``"L2"`` by default, with a lumped mass matrix;
    ``"H1"`` where a gradient of the field is in the functional; a ``RieszMap`` of a form for
    others; without one that of a :class:`~femnn.FieldPrior` in the functional, where there are no
    bounds; ``"l2"`` for degrees of freedom as numbers, which weights and Constants are.  Each
    rank has the vector of all values, and the factors of ``"H1"`` and of forms.

    Parameters
    ----------
    Jhat
        The functional; its controls are ``Weights``, Functions and Constants.
    method
        ``"L-BFGS"`` (SciPy's L-BFGS-B), ``"Adam"`` (torch's), ``"gauss-newton"`` and
        ``"newton-cg"`` (trust regions, with the Gauss-Newton matrix or the Hessian), one of TAO's
        below, or a torch optimiser of parameters of the networks, with its own settings and
        parameter groups, where all controls are ``Weights``; step a scheduler in ``callback``.
        Adam follows the Riesz representer entry by entry.

        PETSc's TAO has ``"lmvm"``, ``"blmvm"``, ``"bqnls"``, ``"bqnktr"`` and ``"bqnktl"``
        (quasi-Newton), ``"cg"`` and ``"bncg"`` (conjugate gradients), and with ``Jhat.hessian``
        ``"nls"``, ``"bnls"``, ``"bntl"`` (Newton's method with a line search), ``"ntr"`` and
        ``"bntr"`` (with a trust region).
    maxiter
        Number of iterations at most; with 0 the functional is evaluated and nothing changed.
    gtol
        Stop when no entry of the gradient exceeds it; of a field, no value of the gradient's Riesz
        representer.  Entries that bounds hold back do not count.
    ftol
        All but torch's optimisers stop when the loss falls by less than this fraction of it in an
        iteration.
    target
        Stop when the loss is at or below.
    bounds
        A pair ``(lower, upper)`` for one control, or a list of one pair (or ``None``) for each; not
        for torch's optimisers, nor for TAO's without a ``b``.  A bound is ``None``, a number, an
        object of the control's kind (a Function of its space), or an array: of shape
        ``(n_weights,)``, of the Constant's shape, or of the shape of the field's ``dat.data_ro``,
        rank-local.  Those of fields hold for degrees of freedom.
    learning_rate
        Adam's, 0.01 by default.
    options
        More options of :func:`scipy.optimize.minimize`'s L-BFGS-B (``maxcor``, ``maxfun``,
        ``maxls``), of :class:`torch.optim.Adam` (``betas``, ``eps``, ``weight_decay``,
        ``amsgrad``, ``decoupled_weight_decay``), of Gauss-Newton and Newton-CG (``cgtol`` and
        ``maxcg`` of conjugate gradients, which are then used for few controls too, where steps
        are else by the matrix itself), or PETSc's for TAO, such as ``{"tao_bnk_ksp_rtol": 1e-8}``.
    patience
        A trial step at which Newton's methods take more than this many times the iterations that
        they usually take in all, and more than a hundred, is given up: a rejected step, with the
        reason in ``result.rejections``.  Counted, not timed, so that all ranks do the same.
        ``None`` for no limit but the solvers' own.
    callback
        Called as ``callback(step, weights)`` after each iteration on every rank, and once
        before the first: ``step`` has ``iteration``, ``evaluations``, ``loss``, ``gradient_norm``,
        ``seconds`` and ``solves``, ``weights`` is a copy of the step's weights, shape
        ``(n_weights,)``.  Networks, Functions and Constants hold the step's values meanwhile.  A
        true return value stops the training; what it raises on one rank is raised on all.
    progress
        Whether rank 0 shows live progress.
    checkpoint
        A folder in which the state of the training is kept: values, the optimiser's memory, the
        history, random states, and the callback's ``state_dict()`` where it has one.  Rank 0
        writes.  SIGTERM and SIGUSR1, which clusters send before they kill, then end the training
        after the evaluation in hand.
    checkpoint_every
        Number of iterations from one writing to the next.
    resume
        Go on from what ``checkpoint`` holds, with the same iterates as without the break, on other
        numbers of ranks but for rounding; begin where it holds nothing yet.

    Returns
    -------
    FitResult
        The best values and the loss there, why the training ended, each iteration, and
        ``result.solves``: how often the model was run, and its derivatives.

    Raises
    ------
    TypeError
        If ``Jhat`` is not a reduced functional that gives a number, a control is of another kind
        or the coordinates of a mesh, the inner product of a ``riesz_map`` is not known, or a
        setting or a bound is of another kind.
    ValueError
        If the method or an option is unknown, a setting is out of range or not used by the
        method, or an optimiser has parameters that are not the controls'; if nothing on the tape
        computes the functional, there is nothing to train, a control is given twice, two share a
        part of their parameters, or a Constant stands in a form of Firedrake's own ``assemble``
        or ``solve``, which do not follow it; if controls, loss or gradient at the start are not
        finite, or the gradient is zero; if bounds cross, the start is outside them, or a bounded
        field's inner product is not diagonal.
    RuntimeError
        If the controls differ between ranks, or the callback has raised an error on another rank.
    firedrake.ConvergenceError
        If the first forward solve fails.

    References
    ----------
    R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, SIAM J. Sci. Comput. 16 (1995) for L-BFGS-B;
    D. P. Kingma, J. Ba, arXiv 1412.6980 for Adam; E. Hinton, T. Rock, O. C. Zienkiewicz,
    Earthquake Eng. Struct. Dyn. 4 (1976) for lumped masses; T. Schwedes, D. A. Ham, S. W. Funke,
    M. D. Piggott, *Mesh Dependence in PDE-Constrained Optimisation* (2017) for inner products.

    Examples
    --------
    >>> Jhat = ReducedFunctional(J, Control(kappa.weights))
    >>> result = fit(Jhat, maxiter=100, callback=lambda step, w: femnn.save(net, "net.safetensors"))
    >>> result = fit(Jhat, torch.optim.AdamW(net.parameters(), lr=1e-2), maxiter=500)

    >>> fit(Jhat, checkpoint="training", resume=True)  # the same line after a break

    >>> controls = [Control(kappa.weights), Control(f, riesz_map="H1"), Control(c)]
    >>> result = fit(ReducedFunctional(J, controls), "bnls", bounds=[None, None, (0, None)])
    """
    optimiser = optimiser_of(method)
    settings = Settings(
        maxiter, gtol, ftol, target, learning_rate, {} if options is None else options, patience
    )
    name = method if isinstance(method, str) else type(method).__name__
    optimiser.check_settings(name, settings, bounds)
    keeping = keeping_of(name, optimiser.resumes, checkpoint, checkpoint_every, resume)
    with stop_annotating(), Run(Jhat, name, settings, callback, progress, bounds, keeping) as run:
        return run.minimise(optimiser)
