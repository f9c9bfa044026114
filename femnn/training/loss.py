"""A reduced functional as numpy sees it: value and gradient, failures, the best point."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import OverloadedType

from femnn.parallel import from_rank_zero, vector_from_rank_zero
from femnn.tape.counts import Budget, at_most, count
from femnn.tape.model import forget_guesses, is_computed_on
from femnn.training.controls import ControlVector
from femnn.training.history import Rejection
from femnn.training.journal import Evaluation, Journal
from femnn.training.point import Point
from femnn.training.snapshots import arrays_of, tensors_of

# An evaluation that is not given up: so many linear systems in all, or for each equation.
SURELY = 100
USUAL = 2


class Loss:
    """A reduced functional as a function of one vector, which remembers its best point.

    All ranks get rank 0's numbers, so that decisions made from them are the same everywhere.
    Values at the last and at the best point are not computed twice.

    Parameters
    ----------
    Jhat
        The reduced functional.
    on_rejection
        Called with the reason where an evaluation fails.
    bounds
        Of the controls, as :func:`femnn.fit` takes them.
    patience
        How many times the usual work an evaluation may take.

    Attributes
    ----------
    Jhat : pyadjoint.ReducedFunctional
        The reduced functional.
    controls : ControlVector
        Its controls.
    evaluations : int
        Evaluations of value and gradient so far.
    rejections : list of Rejection
        Those of them that failed.
    patience : float or None
        How many times the usual work an evaluation may take.
    journal : Journal
        The evaluations that are kept, or repeated.
    follows_runs : bool
        Whether it is kept where the model is run.
    runs : list of numpy.ndarray
        Where, since its solvers forgot their last solutions.

    Raises
    ------
    TypeError, ValueError
        If ``Jhat`` is not a reduced functional of numbers, is not on the tape any more, or its
        controls cannot be trained.
    """

    def __init__(
        self,
        Jhat: Any,
        on_rejection: Callable[[str], None] | None = None,
        bounds: Any = None,
        patience: float | None = None,
    ):
        check_functional(Jhat)
        self.Jhat = Jhat
        self.controls = ControlVector(Jhat, bounds)
        self.evaluations, self.patience = 0, patience
        self.rejections: list[Rejection] = []
        self.journal = Journal()
        self.runs: list[np.ndarray] = []
        self.follows_runs = False
        self._work: list[int] = []  # of successes
        self._equations = 0  # that were solved in the last of them
        self._comm = self.controls.comm
        self._on_rejection = on_rejection
        self._best: Point | None = None
        self._last: Point | None = None
        self._evaluated: tuple[np.ndarray, int | None] | None = None

    @property
    def rejected(self) -> int:
        """How many evaluations failed."""
        return len(self.rejections)

    @property
    def best(self) -> Point:
        """The point with the lowest loss."""
        assert self._best is not None, "start() comes first"
        return self._best

    @property
    def last(self) -> Point:
        """The last point at which the evaluation succeeded."""
        assert self._last is not None, "start() comes first"
        return self._last

    def start(self) -> Point:
        """Evaluate at the controls' present values, where all must be finite.  Collective.

        Raises
        ------
        RuntimeError
            If the controls' values differ between ranks.
        ValueError
            If the controls, the loss or its gradient are not finite, the gradient is zero, or
            the controls are outside their bounds.
        firedrake.ConvergenceError
            If the forward solve fails.
        """
        vector = self.journal.next_vector if self.journal.repeats else self.controls.read()
        value, gradient = self._evaluate(vector)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            what = f"loss is {value}" if not np.isfinite(value) else "gradient is not finite"
            raise ValueError(
                f"fit: at the initial {self.controls.what} the {what}. Look for NaN in the "
                "observations and in the fields of the form, and for a network output that the "
                "form cannot take."
            )
        if not gradient.any():
            raise ValueError(
                f"fit: the gradient at the initial {self.controls.what} is exactly zero: the "
                f"functional does not depend on the {self.controls.what}. Record the model while "
                "annotation is on, and make the controls from what is in it, such as the weights "
                "of its coefficients."
            )
        self._note(vector, value, gradient)
        return self.last

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient; a finite barrier where the evaluation fails.  Collective.

        Parameters
        ----------
        vector
            Shape ``(n,)``.

        Returns
        -------
        value : float
            The loss.
        gradient : numpy.ndarray
            Its gradient, shape ``(n,)``.
        """
        vector = vector_from_rank_zero(self._comm, vector)
        for known in (self.last, self.best):
            if np.array_equal(vector, known.vector):
                self._last = known
                return known.loss, known.gradient
        try:
            value, gradient = self._evaluate(vector)
        except fd.ConvergenceError as error:
            return self._reject(vector, _first_line(error))
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return self._reject(vector, "the loss or its gradient is not finite")
        self._note(vector, value, gradient)
        return value, gradient

    def keep_best(self) -> None:
        """Give the controls the best values that were seen, if any were."""
        if self._best is not None:
            self.controls.write(self._best.vector)

    def return_to_last(self, derivative: bool) -> None:
        """Let the tape hold the last point, for second derivatives there.  Collective.

        Parameters
        ----------
        derivative
            Whether its adjoint values are wanted, too.
        """
        if not self._is_evaluated_at(self.last.vector):
            self._run(self.last.vector)
            if derivative:
                self._derivative()

    def return_to_best(self) -> None:
        """Let the tape hold the best point, so that derivatives are taken there.  Collective.

        Costs a forward solve where the last evaluation was elsewhere.
        """
        if self._is_evaluated_at(self.best.vector):
            return
        try:
            self._run(self.best.vector)
        except fd.ConvergenceError as error:
            warnings.warn(
                f"fit: the forward solve at the best {self.controls.what}, which had converged "
                f"before, has failed ({_first_line(error)}). They are kept; "
                "evaluate the reduced functional before you take its derivatives.",
                stacklevel=2,
            )

    def _evaluate(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        found = self.journal.known(vector) or self._compute(vector)
        if found.gradient is None:
            raise fd.ConvergenceError(found.why)
        self._work.append(found.work)
        self._equations = found.equations
        return found.value, found.gradient

    def _compute(self, vector: np.ndarray) -> Evaluation:
        """Run the model and its adjoint, and keep what came of it."""
        try:
            value, spent = self._run_within_limit(vector)
        except fd.ConvergenceError as error:
            self.journal.add(Evaluation(vector.copy(), np.nan, None, _first_line(error)))
            raise
        gradient = self.controls.flat(self._derivative())
        found = Evaluation(
            vector.copy(),
            from_rank_zero(self._comm, float(value)),
            vector_from_rank_zero(self._comm, gradient),
            work=spent.used,
            equations=spent.solves,
        )
        self.journal.add(found)
        return found

    def _derivative(self) -> Any:
        count("adjoint")
        return self.Jhat.derivative()

    def _run_within_limit(self, vector: np.ndarray) -> tuple[Any, Budget]:
        """The functional; given up where it takes much more work than it usually does."""
        why = f"more than {self.patience} times the usual work (fit's patience)"
        with at_most(self._limit(), why) as spent:
            return self._run(vector), spent

    def _limit(self) -> float:
        """How many linear systems an evaluation may solve, the same on all ranks.  Collective."""
        if self.patience is None or not self._work:
            return np.inf
        usual = max(statistics.median(self._work), USUAL * self._equations)
        return from_rank_zero(self._comm, max(self.patience * usual, SURELY))

    def _run(self, vector: np.ndarray) -> Any:
        self._evaluated = None
        if self.follows_runs:
            self.runs.append(vector.copy())
        count("forward")
        value = self.Jhat(self.controls.values(vector))
        self._evaluated = (vector.copy(), self._runs_of_the_tape())
        return value

    def forget_guesses(self) -> None:
        """Let the model's solvers start as if they had solved nothing before."""
        forget_guesses(self.Jhat)
        self.runs, self._evaluated = [], None

    def value_at(self, vector: np.ndarray) -> float:
        """The loss, which is not counted; the solvers forget it again.  Collective."""
        self.forget_guesses()
        value = from_rank_zero(self._comm, float(self._run(vector)))
        self.forget_guesses()
        return value

    def run_again(self, vectors: list[np.ndarray]) -> None:
        """Run the model at these points, so that its solvers know what they knew.  Collective."""
        for vector in vectors:
            with suppress(fd.ConvergenceError):  # it was a rejected step then, too
                self._run_within_limit(vector)
        if self._evaluated is not None:
            self._derivative()

    def state(self) -> dict[str, Any]:
        """All that is known, in numbers, strings and tensors."""
        return {
            "best": tensors_of(self.best),
            "last": tensors_of(self.last),
            "evaluations": self.evaluations,
            "rejections": [vars(r) for r in self.rejections],
            "work": list(self._work),
            "equations": self._equations,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state` gave."""
        self._best, self._last = (Point(**arrays_of(state[name])) for name in ("best", "last"))
        self.evaluations, self._equations = state["evaluations"], state["equations"]
        self.rejections = [Rejection(**r) for r in state["rejections"]]
        self._work = list(state["work"])

    def _is_evaluated_at(self, vector: np.ndarray) -> bool:
        """Whether the tape's last run, by whomever, was at this vector."""
        if self._evaluated is None:
            return False
        known, count = self._evaluated
        return np.array_equal(known, vector) and count == self._runs_of_the_tape()

    def _runs_of_the_tape(self) -> int | None:
        return getattr(getattr(self.Jhat, "tape", None), "recompute_count", None)

    def _note(self, vector: np.ndarray, value: float, gradient: np.ndarray) -> None:
        sizes = self.controls.size_of_gradient(vector, gradient)
        self._last = Point(vector.copy(), value, gradient, *sizes)
        if self._best is None or value < self._best.loss:
            self._best = self._last

    def _reject(self, vector: np.ndarray, why: str) -> tuple[float, np.ndarray]:
        """A barrier that sends a line search back towards the last good point."""
        self.rejections.append(Rejection(self.evaluations, why))
        if self._on_rejection is not None:
            self._on_rejection(why)
        away = vector - self.last.vector
        length = float(np.linalg.norm(away))
        rise = 10.0 * max(abs(self.last.loss), 1e-30)
        return self.last.loss + rise, (2 * rise / length**2) * away


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def check_functional(Jhat: Any) -> None:
    """Raise where ``Jhat`` is not a reduced functional that gives numbers and can be run."""
    if not (callable(Jhat) and hasattr(Jhat, "controls") and hasattr(Jhat, "derivative")):
        raise TypeError(
            f"fit got a {type(Jhat).__name__}, wanted a ReducedFunctional: make it of the recorded "
            "loss J, as in ReducedFunctional(J, Control(kappa.weights))."
        )
    functional, tape = getattr(Jhat, "functional", None), getattr(Jhat, "tape", None)
    if not isinstance(functional, OverloadedType):
        return
    if not isinstance(functional, float):
        raise TypeError(
            f"fit: the functional is a {type(functional).__name__}, wanted a number: assemble a "
            "loss of it, as in femnn.assemble((u - data)**2 * dx)."
        )
    if tape is not None and not is_computed_on(functional, tape):
        raise ValueError(
            "fit: no block on the tape computes the functional: the tape was cleared since, or "
            "annotation was off. Record the model again (continue_annotation() before it), and "
            "make the ReducedFunctional anew."
        )
