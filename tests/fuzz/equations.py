"""The text of the equations: cells, spaces, terms and operands.

All text is valid for both sides.  It speaks of ``q`` (the side's fields), ``u`` and ``v`` (the part
of the unknown in which laws stand, and its test function), ``v0`` (a scalar test function), ``k``
(the laws) and ``at`` (their measures).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A mesh."""

    mesh: str
    dimension: int
    extruded: bool = False
    simplex: bool = False


CELLS = {
    "interval": Cell("UnitIntervalMesh(5)", 1, simplex=True),
    "triangle": Cell("UnitSquareMesh(3, 2)", 2, simplex=True),
    "quadrilateral": Cell("UnitSquareMesh(3, 2, quadrilateral=True)", 2),
    "tetrahedron": Cell("UnitCubeMesh(2, 1, 1)", 3, simplex=True),
    "prism": Cell("ExtrudedMesh(UnitSquareMesh(2, 1), 2)", 3, extruded=True),
    "hexahedron": Cell("ExtrudedMesh(UnitSquareMesh(2, 1, quadrilateral=True), 2)", 3, True),
}
FACETS = {
    False: {"ds": ("ds",), "dS": ("dS",)},
    True: {"ds": ("ds_v", "ds_t", "ds_b"), "dS": ("dS_v", "dS_h")},
}


@dataclass(frozen=True)
class Base:
    """A space, and the equation without laws.

    Attributes
    ----------
    space
        The unknown's space.
    kind
        ``"smooth"`` (continuous scalar), ``"broken"`` (DG1), ``"constant"`` (DG0), ``"vector"``,
        ``"pair"``, ``"flow"`` or ``"darcy"``.
    names
        How unknown, its time level before and the test function are split.
    form
        The equation without the time derivative, the source and the terms that are drawn.
    boundary
        Kinds of boundary conditions.
    part
        The space of boundary values, as text.
    """

    space: str
    kind: str
    names: tuple[str, str, str]
    form: str
    boundary: tuple[str, ...]
    part: str = "V"


SCALAR = ("u = q.u", "un = q.un", "v = v0 = t")
CONDITIONS = ("none", "number", "constant", "function", "coordinates", "overlap")
BASES = {
    "CG1": Base('FunctionSpace(mesh, "CG", 1)', "smooth", SCALAR, "INNER", CONDITIONS),
    "CG2": Base('FunctionSpace(mesh, "CG", 2)', "smooth", SCALAR, "INNER", CONDITIONS),
    "DG1": Base('FunctionSpace(mesh, "DG", 1)', "broken", SCALAR, "INNER + JUMP", ("none",)),
    "DG0": Base('FunctionSpace(mesh, "DG", 0)', "constant", SCALAR, "JUMP", ("none",)),
    "vector": Base(
        'VectorFunctionSpace(mesh, "CG", 1)',
        "vector",
        ("u = q.u", "un = q.un", "v, v0 = t, t[0]"),
        "INNER",
        ("none", "zero", "constant", "function", "component"),
    ),
    "CG1xCG1": Base(
        'FunctionSpace(mesh, "CG", 1) * FunctionSpace(mesh, "CG", 1)',
        "pair",
        ("u, s = split(q.u)", "un, _ = split(q.un)", "v, r = split(t)\n    v0 = v"),
        "INNER + (inner(grad(s), grad(r)) + (s - 0.5 * u) * r + 0.2 * s * v) * dx",
        CONDITIONS,
        "V.sub(0)",
    ),
    "CG2xCG1": Base(
        'VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)',
        "flow",
        ("u, s = split(q.u)", "un, _ = split(q.un)", "v, r = split(t)\n    v0 = v[0]"),
        "INNER - (s * div(v) + r * div(u)) * dx",
        ("zero", "function"),
        "V.sub(0)",
    ),
    "RTxDG0": Base(
        'FunctionSpace(mesh, "RT", 1) * FunctionSpace(mesh, "DG", 0)',
        "darcy",
        ("s, u = split(q.u)", "_, un = split(q.un)", "r, v = split(t)\n    v0 = v"),
        "(0.5 * dot(s, r) - u * div(r) + div(s) * v) * dx",
        ("none",),
    ),
}
INNER = "inner(grad(u), grad(v)) * dx"


def spaces_on(cell: str) -> list[str]:
    """The spaces that this cell has."""
    if cell == "interval":
        return ["CG1", "CG2", "DG1", "DG0", "CG1xCG1"]
    if cell == "triangle":
        return list(BASES)
    if CELLS[cell].dimension == 3:
        return ["CG1", "DG1", "DG0", "vector", "CG1xCG1"]
    return [name for name in BASES if name not in ("RTxDG0", "CG2xCG1")]


def dimension(cell: str) -> int:
    """Of the cell."""
    return CELLS[cell].dimension


@dataclass(frozen=True)
class Term:
    """A term with a law.

    Attributes
    ----------
    place
        ``"dx"``, ``"ds"``, ``"dS"`` or ``"nodes"``.
    text
        The term, with ``K`` for the law and ``AT`` for its measure; empty where it does not stand
        in the equation.
    kinds
        Kinds of spaces that it fits; all where empty.
    positive, vector, explicit, gradient
        What the law must be: positive, a vector, not of the unknown, a ``Gradient``.
    operands
        Its operands, where they cannot be any.
    nodes
        The space in whose nodes it stands, as text.
    """

    place: str
    text: str
    kinds: tuple[str, ...] = ()
    positive: bool = False
    vector: bool = False
    explicit: bool = False
    gradient: bool = False
    operands: tuple[tuple[str, ...], ...] = ()
    nodes: str = ""

    def fits(self, cell: str, space: str, linear: bool, in_time: bool) -> bool:
        """Whether the term can stand in such a problem."""
        kind = BASES[space].kind
        if self.kinds and kind not in self.kinds:
            return False
        if cell == "interval" and (self.vector or self.gradient):
            return False  # one number there, and no vector
        if self is TERMS["initial"] and not in_time:
            return False
        return not (linear and self.operands)

    @property
    def in_goal(self) -> bool:
        """Whether the law can stand in the functional."""
        return not (self.vector or self.gradient or self.operands or self.place in ("dS", "nodes"))


GRADIENTS = ("smooth", "broken", "vector", "pair", "flow")
SCALARS = ("smooth", "broken", "pair")
TERMS = {
    "diffusion": Term("dx", "K * inner(grad(u), grad(v)) * AT", GRADIENTS, positive=True),
    "reaction": Term("dx", "0.3 * K * v0 * AT"),
    "growth": Term("dx", "K * inner(u, v) * AT", positive=True),
    "source": Term("dx", "-K * v0 * AT", explicit=True),
    "advection": Term("dx", "0.2 * inner(dot(grad(u), K), v) * AT", GRADIENTS, vector=True),
    "flux": Term("dx", "0.2 * dot(K, grad(v)) * AT", SCALARS, vector=True),
    "resistance": Term("dx", "K * dot(s, r) * AT", ("darcy",), positive=True),
    "potential": Term(
        "dx", "0.2 * dot(K, grad(v)) * AT", SCALARS, gradient=True, operands=(("gradu",),)
    ),
    "energy": Term(
        "dx",
        "derivative(0.3 * K * AT, q.u, t)",
        GRADIENTS,
        operands=(("normsq",), ("uu",), ("uu", "x0"), ("gradu",)),
    ),
    "rate": Term(
        "dx",
        "0.3 * diff(K, q.z) * v * AT",
        ("smooth", "broken", "constant"),
        operands=(("z",), ("z", "m")),
    ),
    "robin": Term("ds", "K * inner(u, v) * AT", positive=True),
    "inflow": Term("ds", "0.3 * K * v0 * AT"),
    "penalty": Term("dS", "SIDE(K) * jump(u) * jump(v) * AT", ("broken", "constant"), True),
    "kink": Term(
        "dS", "0.1 * SIDE(K) * jump(grad(u), n) * jump(grad(v), n) * AT", ("smooth", "pair"), True
    ),
    "element": Term("nodes", "K * inner(u, v) * dx", positive=True, explicit=True, nodes="D"),
    "field": Term("nodes", "-0.5 * K * v0 * dx", explicit=True, nodes="P"),
    "boundary": Term("nodes", "", ("smooth",), explicit=True, nodes="V"),
    "initial": Term("nodes", "", SCALARS[:2], explicit=True, nodes="V"),
}

EXPLICIT = ("x0", "m", "c", "f")
_CELL_OPERANDS = {
    "smooth": ("u", "gradu", "normsq", "ux"),
    "broken": ("u", "gradu", "normsq", "ux"),
    "constant": ("u",),
    "vector": ("u", "u0", "div", "normsq"),
    "pair": ("u", "s", "normsq"),
    "flow": ("u", "s", "normsq", "div"),
    "darcy": ("u", "ss", "s"),
}
IMPLICIT = {
    "dx": _CELL_OPERANDS,
    "ds": {kind: names[:2] for kind, names in _CELL_OPERANDS.items()},
    "dS": dict.fromkeys(_CELL_OPERANDS, ("mean", "jumpsq", "plus")),
}
OPERANDS = {
    "u": "u",
    "u0": "u[0]",
    "uu": "inner(u, u)",
    "ux": "u.dx(0)",
    "gradu": "grad(u)",
    "normsq": "inner(grad(u), grad(u))",
    "div": "div(u)",
    "s": "s",
    "ss": "dot(s, s)",
    "z": "q.z",
    "mean": "avg(u)",
    "jumpsq": "jump(u) ** 2",
    "plus": 'u("+")',
    "x0": "x[0]",
    "m": "q.m",
    "c": "q.c",
    "f": "q.f",
    "time": "q.time",
    "un": "un",
}


def components(operand: str, cell: str, space: str) -> int:
    """How many inputs an operand is."""
    kind, n = BASES[space].kind, dimension(cell)
    vector = kind in ("vector", "flow")
    if operand == "gradu":
        return n * n if vector else n
    if operand in ("u", "un"):
        return n if vector else 1
    return n if operand == "s" and kind == "darcy" else 1


def jumps(cell: str) -> str:
    """The penalty of jumps of spaces without continuity."""
    measures = FACETS[CELLS[cell].extruded]["dS"]
    return f"5 * jump(u) * jump(v) * ({' + '.join(measures)})"
