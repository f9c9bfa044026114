"""Running a problem."""

from __future__ import annotations

import linecache
import traceback
from dataclasses import dataclass
from typing import Any

from firedrake.adjoint import get_working_tape, pause_annotation

from tests.fuzz.grammar import Problem
from tests.fuzz.script import importing
from tests.fuzz.support import Disagreement, Undecided


@dataclass(frozen=True)
class Outcome:
    """What running a problem gave.

    Attributes
    ----------
    kind
        ``"agrees"``, ``"undecided"`` (the oracle has no solution), or what tells one
        disagreement from another: the kind of comparison or of exception.
    text
        All that was said.
    """

    kind: str
    text: str = ""

    @property
    def bad(self) -> bool:
        """Whether it is a disagreement."""
        return self.kind not in ("agrees", "undecided")


def check(problem: Problem) -> Outcome:
    """Run a problem's script on a tape of its own.  Collective."""
    text, name = importing(problem), f"<problem {problem.seed}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    space: dict[str, Any] = {"__name__": "problem"}
    pause_annotation()
    get_working_tape().clear_tape()
    try:
        exec(compile(text, name, "exec"), space)
    except Undecided as error:
        return Outcome("undecided", str(error))
    except Disagreement as error:
        return Outcome(str(error).partition(":")[0], f"{error}\n{_line(error, name)}")
    except Exception as error:
        return Outcome(f"{type(error).__name__} {_place(error)}", traceback.format_exc())
    finally:
        pause_annotation()
        get_working_tape().clear_tape()
    return Outcome("agrees")


def _line(error: BaseException, name: str) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
    return f"at: {frames[-1].line}, line {frames[-1].lineno}" if frames else ""


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename.rpartition('/')[2]}:{frame.name}"
