"""The problems: descriptions, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.fuzz.equations import (
    BASES,
    CELLS,
    EXPLICIT,
    FACETS,
    IMPLICIT,
    TERMS,
    components,
    dimension,
    spaces_on,
)
from tests.fuzz.moves import MOVES

# So many seeds in a row share their forms.  Compiling these once is nearly all of the time.
SHARING = 32
ACTIVATIONS = ("tanh", "softplus", "silu", "sigmoid", "gelu")
OUTPUTS = {True: ("softplus", "exp", (0.2, 2.0)), False: (None, (-1.0, 1.0), "softplus")}


@dataclass(frozen=True)
class Net:
    """A network; ``kind`` is ``"mlp"``, ``"scaled"`` (with a buffer and an attribute) or
    ``"gradient"`` (of one output)."""

    widths: tuple[int, ...]
    activation: str
    output: str | tuple[float, float] | None
    kind: str = "mlp"
    seed: int = 0


@dataclass(frozen=True)
class Law:
    """A network in the equation: which, of what, and in which term."""

    net: int
    operands: tuple[str, ...]
    term: str
    measure: str
    degree: int | None = None


@dataclass(frozen=True)
class Problem:
    """All that determines a problem; see :mod:`tests.fuzz.script` for what each part becomes."""

    seed: int
    cell: str
    space: str
    nets: tuple[Net, ...]
    laws: tuple[Law, ...]
    bc: str
    where: str
    mass: bool
    cubic: bool
    linear: bool
    goal: str
    steps: int
    theta: bool
    driven: bool
    form: str
    call: str
    options: str
    warm_start: bool
    controls: tuple[str, ...]
    actions: tuple[str, ...]
    numbers: int


def draw(seed: int) -> Problem:
    """The problem of a seed."""
    rng = Random(f"structure {seed // SHARING}")
    cell = rng.choice((*CELLS, "interval", "triangle", "triangle"))
    space = rng.choice(spaces_on(cell))
    steps = rng.choice((0, 0, 2))
    linear = rng.random() < 0.25
    nets, laws = _draw_laws(rng, cell, space, linear, steps > 0)
    bc, where = _draw_boundary(rng, cell, space, laws)
    mass = bc == "none" or rng.random() < 0.3
    structure = {
        "cell": cell,
        "space": space,
        "laws": laws,
        "bc": bc,
        "where": where,
        "mass": mass,
        "cubic": not linear and rng.random() < 0.5,
        "linear": linear,
        "goal": _draw_goal(rng, laws),
        "theta": steps > 0 and not linear and rng.random() < 0.4,
    }
    return _with_numbers(Random(f"numbers {seed}"), seed, nets, steps, structure)


def _with_numbers(
    rng: Random, seed: int, nets: tuple[Net, ...], steps: int, structure: dict
) -> Problem:
    """What needs no form of its own."""
    linear, laws = structure["linear"], structure["laws"]
    known = ["f", "c"]
    known += ["start"] if steps and all(law.term != "initial" for law in laws) else []
    known += ["m"] if any("m" in law.operands for law in laws) else []
    values = {"function": "g", "component": "g", "overlap": "g"}
    known += [values[structure["bc"]]] if structure["bc"] in values else []
    weights = [f"w{i}" for i in sorted({law.net for law in laws})]
    controls = rng.sample(weights, rng.randint(1, len(weights)))
    controls += rng.sample(known, rng.randint(0, 2))
    # Firedrake's own recorded interpolation has no second derivatives.
    second = all(law.term != "initial" for law in laws)
    direct = "direct" if structure["space"] in ("RTxDG0", "CG2xCG1") else None
    return Problem(
        seed=seed,
        nets=tuple(Net(n.widths, n.activation, n.output, n.kind, rng.randint(0, 99)) for n in nets),
        steps=rng.choice((2, 3)) if steps else 0,
        driven=steps > 0 and "f" not in controls and rng.random() < 0.25,
        form=rng.choice(("F", "a == L")) if linear else "F",
        call=rng.choice(("solve", "kept")),
        options=direct or rng.choice(("direct", "direct", "krylov", "matfree", "bt")),
        warm_start=rng.random() < 0.7,
        controls=tuple(controls),
        actions=_draw_actions(rng, ["hessian"] if second else []),
        numbers=rng.randint(0, 999),
        **structure,
    )


def _draw_laws(
    rng: Random, cell: str, space: str, linear: bool, in_time: bool
) -> tuple[tuple[Net, ...], tuple[Law, ...]]:
    nets: list[Net] = []
    laws: list[Law] = []
    possible = [name for name, term in TERMS.items() if term.fits(cell, space, linear, in_time)]
    possible += [name for name in possible if TERMS[name].text and not TERMS[name].explicit]
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(possible)
        possible = [other for other in possible if other != name]
        term = TERMS[name]
        operands = _draw_operands(rng, cell, space, name, linear, in_time)
        inputs = sum(components(o, cell, space) for o in operands)
        net = _draw_net(rng, name, inputs, dimension(cell) if term.vector else 1)
        shared = [i for i, other in enumerate(nets) if _alike(other, net)]
        if not (shared and rng.random() < 0.7):
            nets.append(net)
            shared = [len(nets) - 1]
        degree = rng.choice((None, None, 2, 4)) if term.place != "nodes" else None
        measure = rng.choice(FACETS[CELLS[cell].extruded].get(term.place, (term.place,)))
        laws.append(Law(shared[0], operands, name, measure, _enough(degree, space)))
    return tuple(nets), tuple(laws)


def _alike(net: Net, other: Net) -> bool:
    """Whether one network can stand in both places."""
    ends = [(n.widths[0], n.widths[-1], n.kind == "gradient") for n in (net, other)]
    return ends[0] == ends[1] and (net.output == other.output or net.output == "softplus")


def _enough(degree: int | None, space: str) -> int | None:
    return 4 if degree == 2 and space.startswith("CG2") else degree


def _draw_operands(
    rng: Random, cell: str, space: str, name: str, linear: bool, in_time: bool
) -> tuple[str, ...]:
    term = TERMS[name]
    if term.operands:
        return rng.choice(term.operands)
    explicit = list(EXPLICIT)
    if in_time and term.place in ("dx", "ds"):
        explicit += ["un", "time"]
    if linear or term.explicit:
        chosen = rng.sample(explicit, rng.choice((1, 2)))
    else:
        chosen = [rng.choice(IMPLICIT[term.place][BASES[space].kind])]
        chosen += rng.sample(explicit, rng.choice((0, 0, 1)))
    if all(o in ("c", "time") for o in chosen):
        chosen.append("x0")
    return tuple(chosen)


def _draw_net(rng: Random, name: str, inputs: int, outputs: int) -> Net:
    term = TERMS[name]
    hidden = rng.choice(((2,), (3,), (2, 2)))
    kind = "gradient" if term.gradient else rng.choice(("mlp", "mlp", "scaled"))
    output = rng.choice(OUTPUTS[term.positive]) if kind != "gradient" else None
    ends = 1 if kind == "gradient" else outputs
    return Net((inputs, *hidden, ends), rng.choice(ACTIVATIONS), output, kind)


def _draw_boundary(rng: Random, cell: str, space: str, laws: tuple[Law, ...]) -> tuple[str, str]:
    if any(law.term == "boundary" for law in laws):
        return "law", "1"
    kinds = BASES[space].boundary
    bc = rng.choice(kinds)
    places = ["1", '"on_boundary"'] if space != "CG2xCG1" else ["1"]
    if CELLS[cell].extruded:
        places.append('"bottom"')
    return bc, rng.choice(places)


def _draw_goal(rng: Random, laws: tuple[Law, ...]) -> str:
    """``"plain"``, ``"power"``, or the number of a law that stands in the functional too."""
    usable = [str(i) for i, law in enumerate(laws) if TERMS[law.term].in_goal]
    return rng.choice(["plain", "power", *usable])


def _draw_actions(rng: Random, further: list[str]) -> tuple[str, ...]:
    """What is done: moves, recordings, evaluations and derivatives, in this order."""
    moves = list(MOVES)
    first = [move for move in moves if "case" not in MOVES[move]]
    actions = [*rng.sample(first, rng.choice((0, 0, 1))), "record"]
    for _ in range(rng.choice((1, 2, 3))):
        actions += rng.sample(moves, rng.choice((0, 1, 2)))
        found = ("derivative", "away", "away", "here", "record", "tangent", *further)
        actions.append(rng.choice(found))
    return (*actions, *rng.sample(moves, rng.choice((0, 1))), "derivative")
