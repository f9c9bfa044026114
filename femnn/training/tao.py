"""PETSc's TAO: its optimisers by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from petsc4py import PETSc
from petsctools import OptionsManager, flatten_parameters

from femnn.tape.petsc import OnRankZero
from femnn.training.coordinates import Coordinates
from femnn.training.hessian import Hessian
from femnn.training.result import Outcome
from femnn.training.run import Optimiser, Run

T = TypeVar("T")

REASON = PETSc.TAO.ConvergedReason

# What fit's own arguments say.
ARGUMENTS = {
    "tao_type": "method",
    "tao_max_it": "maxiter",
    "tao_gatol": "gtol",
    "tao_grtol": "gtol",
    "tao_gttol": "gtol",
    "tao_fmin": "target",
}

# Options that TAO reads when it has solved.
AFTERWARDS = ("tao_view", "tao_view_solution", "tao_converged_reason", "ksp_view")


@dataclass(frozen=True)
class Type:
    """One of TAO's optimisers.

    Attributes
    ----------
    name
        As PETSc knows it.
    takes_bounds
        Whether it keeps to bounds.
    radius
        Its option for the first trust region's radius; ``None`` where it has no Hessian.
    """

    name: str
    takes_bounds: bool
    radius: str | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """Options where the user gives none."""
        # TAO's own choice evaluates the functional elsewhere between two actions of a Hessian.
        return {} if self.radius is None else {self.radius: "direction"}


# Not ntl: that of PETSc 3.26 follows a null pointer where a line search along Newton's step fails.
TYPES = (
    Type("lmvm", False),
    Type("cg", False),
    Type("blmvm", True),
    Type("bqnls", True),
    Type("bqnktr", True),
    Type("bqnktl", True),
    Type("bncg", True),
    Type("nls", False, "tao_nls_init_type"),
    Type("ntr", False, "tao_ntr_init_type"),
    Type("bnls", True, "tao_bnk_init_type"),
    Type("bntr", True, "tao_bnk_init_type"),
    Type("bntl", True, "tao_bnk_init_type"),
)


def minimise(kind: Type, run: Run) -> Outcome:
    """Run one of TAO's optimisers, again from the best point where a rejected step has ended it."""
    if kind.radius is not None and not hasattr(run.loss.Jhat, "hessian"):
        raise TypeError(
            f"fit: {kind.name} takes second derivatives, and a {type(run.loss.Jhat).__name__} has "
            "no hessian(): give a ReducedFunctional, or take a method without, such as 'bqnls'."
        )
    return run.restarted(partial(_attempt, kind, run, Coordinates(run)))


def check(kind: Type, options: Mapping[str, Any]) -> None:
    """Let TAO look at the options, which it does before it has a problem."""
    for name in flatten_parameters(dict(options)):
        if name in ARGUMENTS:
            raise ValueError(
                f"fit: options has {name!r}, which is an argument of fit: {ARGUMENTS[name]}=..."
            )
    tao = PETSc.TAO().create(PETSc.COMM_SELF)
    try:
        tao.setObjectiveGradient(lambda tao, x, g: 0.0, None)
        tao.setSolution(PETSc.Vec().createSeq(1))
        _, unused = _set_up(tao, kind, options)
    except PETSc.Error as error:
        raise ValueError(f"fit: {kind.name} does not take options={dict(options)}.") from error
    finally:
        tao.destroy()
    if unused:
        raise ValueError(
            f"fit: options has {unused[0]!r}, which TAO's {kind.name} does not take: see PETSc's "
            "manual for those that it does, such as 'tao_max_funcs'."
        )


def _set_up(
    tao: PETSc.TAO, kind: Type, options: Mapping[str, Any]
) -> tuple[OptionsManager, list[str]]:
    """Give an optimiser its type and options; the second result are those that it did not read."""
    tao.setType(kind.name)
    manager = OptionsManager({**kind.defaults, **options}, None, "femnn_fit")
    prefix, database = manager.options_prefix, PETSc.Options()
    with manager.inserted_options():
        tao.setOptionsPrefix(prefix)
        tao.setFromOptions()
        unused = [name for name in manager.parameters if not database.used(prefix + name)]
    return manager, [name for name in unused if name not in AFTERWARDS]


class _Failures:
    """What Python raised inside PETSc, which has an error of its own in its place."""

    def __init__(self) -> None:
        self._raised: BaseException | None = None

    def keep(self, function: Callable[..., T]) -> Callable[..., T]:
        """The function, whose error is remembered."""

        def called(*args: Any) -> T:
            try:
                return function(*args)
            except BaseException as error:
                self._raised = error
                raise

        return called

    @contextmanager
    def as_they_are(self) -> Iterator[None]:
        """Raise what was raised, not what PETSc makes of it."""
        petscs = None
        try:
            yield
        except PETSc.Error as error:
            petscs = error
        if petscs is not None:
            raise self._raised or petscs


def _attempt(kind: Type, run: Run, coordinates: Coordinates) -> Outcome | None:
    start, failures = coordinates.best(), _Failures()
    vectors = OnRankZero(run.loss.controls.comm, len(start))
    tao: PETSc.TAO = PETSc.TAO().create(vectors.comm)  # type: ignore[arg-type]
    owned: list[Any] = [tao, vectors.new(start)]
    try:
        tao.setSolution(owned[1])
        tao.setObjectiveGradient(failures.keep(partial(_evaluate, coordinates, vectors)), None)
        tao.setMonitor(failures.keep(partial(_monitor, run, coordinates, vectors)))
        if coordinates.bounds is not None:
            limit = np.finfo(float).max
            sides = (coordinates.bounds.lower, coordinates.bounds.upper)
            owned += [vectors.new(side.clip(-limit, limit)) for side in sides]
            tao.setVariableBounds((owned[2], owned[3]))
        if kind.radius is not None:
            hessian = Hessian(run, coordinates, vectors, failures.keep)
            owned.append(hessian.matrix())
            move = failures.keep(lambda tao, y, H, P: hessian.move(vectors.read(y)))
            tao.setHessian(move, owned[-1], owned[-1])
        with failures.as_they_are():
            _solve(tao, kind, run)
        return _why(run, tao.getConvergedReason())
    finally:
        for thing in owned:
            thing.destroy()


def _solve(tao: PETSc.TAO, kind: Type, run: Run) -> None:
    options, _ = _set_up(tao, kind, run.settings.options)
    tao.setTolerances(gatol=0.0, grtol=0.0, gttol=0.0)  # tested by the run, in the controls' units
    tao.setMaximumIterations(run.left)
    if "tao_max_funcs" not in options.parameters:
        most = 10 * run.settings.maxiter - run.loss.evaluations
        tao.setMaximumFunctionEvaluations(max(1, most))
    with options.inserted_options():
        tao.solve()


def _evaluate(
    coordinates: Coordinates, vectors: OnRankZero, tao: PETSc.TAO, y: PETSc.Vec, g: PETSc.Vec
) -> float:
    value, gradient = coordinates(vectors.read(y))
    vectors.write(g, gradient)
    return value


def _monitor(run: Run, coordinates: Coordinates, vectors: OnRankZero, tao: PETSc.TAO) -> None:
    """Report an iteration, if it has found another point."""
    x = coordinates.point(vectors.read(tao.getSolution()))
    if np.array_equal(x, run.accepted):
        return
    run(x)  # known, where it was not a rejected step
    if np.array_equal(x, run.loss.last.vector):
        run.accept(x)


def _why(run: Run, reason: Any) -> Outcome | None:
    """Why TAO has ended; ``None`` where it found no lower loss."""
    if reason == REASON.DIVERGED_MAXITS:
        return run.out_of_iterations()
    if reason == REASON.DIVERGED_MAXFCN:
        return Outcome("evaluations", f"Stopped after {run.loss.evaluations} evaluations.")
    if reason in (REASON.CONVERGED_GATOL, REASON.CONVERGED_GRTOL, REASON.CONVERGED_GTTOL):
        return run.small_gradient().outcome
    return None


TAO: dict[str, Optimiser] = {
    kind.name: Optimiser(
        partial(minimise, kind),
        uses=("ftol",),
        options=None,
        check=partial(check, kind),
        takes_bounds=kind.takes_bounds,
        resumes=kind.radius is None,
    )
    for kind in TYPES
}
