"""How UFL treats a neural coefficient: its derivatives and ``replace`` reach the operands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import ufl
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import (
    GateauxDerivativeRuleset,
    VariableRuleset,
    apply_derivatives,
)
from ufl.algorithms.replace import Replacer, replace
from ufl.constantvalue import Zero
from ufl.corealg.multifunction import MultiFunction
from ufl.corealg.traversal import unique_pre_traversal


def reach_through(kind: type) -> None:
    """Let ``ufl.derivative``, ``ufl.diff`` and ``ufl.replace`` see a coefficient's operands.

    UFL's rules of derivatives are chosen by the kind of the symbol, and further kinds can be
    registered; a coefficient without a rule of its own would be a constant.  The rules of
    ``replace`` are chosen by the names of its methods, and the choice is kept: a method for
    coefficients is added, and the choice made again.

    Parameters
    ----------
    kind
        The class of coefficients: with ``operands``; ``inputs``, a vector of all their components;
        ``slope``, the coefficient of the derivatives in these; ``with_operands`` for the same law
        of other operands; and ``others``, where those that were made are found, so that equal
        replacements give equal forms.
    """
    GateauxDerivativeRuleset.process.register(kind, _gateaux)
    VariableRuleset.process.register(kind, _by_variable)
    Replacer.coefficient = lambda self, o: _replaced(kind, o, self.mapping)
    MultiFunction._handlers_cache.pop(Replacer, None)


def gradient(law: Any) -> Any:
    """The gradient of a coefficient in space, by the chain rule.

    Raises
    ------
    NotImplementedError
        If it has several outputs, or is on interior facets.
    """
    name, slope = law.name(), law.slope
    if law.ufl_shape != ():
        raise NotImplementedError(
            f"{name}.grad(): only for one output, this network has {law.evaluator.n_outputs}. Use "
            "one coefficient for each output."
        )
    if law.points.between_cells:
        raise NotImplementedError(
            f"{name}.grad(): a coefficient on interior facets has no gradient in space."
        )
    terms = [slope[k] * ufl.grad(law.inputs[k]) for k in range(law.inputs.ufl_shape[0])]
    return sum(terms[1:], terms[0])


def holds(law: Any, variable: Any) -> bool:
    """Whether a variable of UFL's stands in a coefficient's operands."""
    return any(node == variable for node in unique_pre_traversal(law.inputs))


def _gateaux(rules: Any, law: Any) -> Any:
    """The change of a coefficient in a direction."""
    if law in rules._w2v or law in rules._cd:
        return rules._process_coefficient(law)
    return _chain_rule(law, rules, ())


def _replaced(kind: type, o: Any, mapping: dict[Any, Any]) -> Any:
    """A coefficient of UFL's, ours or another, after a replacement."""
    if o in mapping or not isinstance(o, kind):
        return mapping.get(o, o)
    law: Any = o
    return of_operands(law, [replace(operand, mapping) for operand in law.operands])


def of_operands(law: Any, operands: Iterable[Any]) -> Any:
    """The same law of these operands: itself where they are its own, else made once."""
    operands = tuple(operands)
    if all(new == old for new, old in zip(operands, law.operands, strict=True)):
        return law
    made = law.others.get(operands)
    if made is None:
        made = law.others[operands] = law.with_operands(*operands)
    return made


def _by_variable(rules: Any, law: Any) -> Any:
    """The derivative of a coefficient with respect to a variable."""
    return _chain_rule(law, rules, rules._var_shape)


def _chain_rule(law: Any, differentiated: Callable[[Any], Any], further: tuple[int, ...]) -> Any:
    """The sum over the inputs of d law / d input times the input's derivative.

    The derivative has ``further`` axes behind those of what is differentiated.
    """
    inputs = apply_derivatives(apply_algebra_lowering(law.inputs))
    change = differentiated(inputs)
    if isinstance(change, Zero):
        return Zero(law.ufl_shape + further)
    if law.points.between_cells:
        raise NotImplementedError(
            f"{law.name()} is on interior facets, and a derivative of it was asked for: UFL's "
            "derivative and diff are not possible there. Write the derivative as a network of its "
            "own."
        )
    rows = np.arange(int(np.prod(law.ufl_shape, dtype=int))).reshape(law.ufl_shape)
    components = {
        index + more: _entry(law, int(rows[index]), change, more)
        for index in np.ndindex(law.ufl_shape)
        for more in np.ndindex(further)
    }
    return _tensor(components, law.ufl_shape + further)


def _entry(law: Any, row: int, change: Any, more: tuple[int, ...]) -> Any:
    terms = [
        (law.slope[k] if len(law.slope.ufl_shape) == 1 else law.slope[row, k]) * change[(k, *more)]
        for k in range(law.inputs.ufl_shape[0])
    ]
    return sum(terms[1:], terms[0])


def _tensor(components: dict[tuple[int, ...], Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return components[()]
    entries = np.empty(shape, dtype=object)
    for index, entry in components.items():
        entries[index] = entry
    return ufl.as_tensor(entries.tolist())
