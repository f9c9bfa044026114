"""A problem as a script."""

from __future__ import annotations

import inspect

from tests.fuzz import support
from tests.fuzz.equations import BASES, CELLS, TERMS
from tests.fuzz.grammar import Law, Net, Problem
from tests.fuzz.moves import MOVES
from tests.fuzz.sides import equations

OPTIONS = {
    "direct": "DIRECT",
    "krylov": '{"ksp_type": "gmres", "pc_type": "jacobi", "ksp_rtol": 1e-12}',
    "matfree": '{"ksp_type": "gmres", "pc_type": "none", "ksp_rtol": 1e-12, "mat_type": "matfree"}',
    "bt": '{**DIRECT, "snes_linesearch_type": "bt"}',
}
ACTIONS = {
    "record": "case.record()",
    "derivative": "case.derivative()",
    "tangent": "case.tangent()",
    "hessian": "case.hessian()",
    "here": "case.here_again()",
    "away": "case.away(0.2)",
}
IMPORTS = (
    "import gc\nimport tempfile\nfrom contextlib import contextmanager\nfrom copy import deepcopy\n"
    "from types import SimpleNamespace\n"
)


def alone(p: Problem) -> str:
    """The script with all that it needs."""
    helpers = inspect.getsource(support).partition("\n\n")[2]
    return f"{IMPORTS}{helpers}\n\n{_problem(p)}"


def importing(p: Problem) -> str:
    """The script for a checkout."""
    return f"{IMPORTS}from tests.fuzz.support import *\n\n{_problem(p)}"


def _problem(p: Problem) -> str:
    parts = [_setting(p), equations(p), _femnn(p), _oracle(p), _actions(p)]
    return f"# Problem {p.seed}\n" + "\n\n".join(parts) + "\n"


def _setting(p: Problem) -> str:
    base, cell, n = BASES[p.space], CELLS[p.cell], p.numbers
    vector = base.kind in ("vector", "flow")
    b = f"np.full({cell.dimension}, 0.2)" if vector else "0.2"
    part = base.part if base.kind != "vector" or p.bc != "component" else "V.sub(0)"
    return f"""
mesh = {cell.mesh}
x, n = SpatialCoordinate(mesh), FacetNormal(mesh)
V = {base.space}
P, D = FunctionSpace(mesh, "CG", 1), FunctionSpace(mesh, "DG", 0)
nets = [{", ".join(map(_net, p.nets))}]
inputs = {[net.widths[0] for net in p.nets]}
weights = [femnn.Weights.of(net, mesh.comm) for net in nets]


def fields():
    q = SimpleNamespace(u=Function(V, name="u"), un=Function(V, name="un"))
    q.start, q.f, q.m = wave(V, {n}), wave(P, {n + 1}), wave(P, {n + 2})
    q.g, q.c, q.b = wave({part}, {n + 3}), Constant({0.5 + n / 2000}), Constant({b})
    q.time, q.z = Constant(0.0), variable(q.u)
    return q
""".strip()


def _net(net: Net) -> str:
    widths = ", ".join(map(str, net.widths))
    text = f"femnn.MLP({widths}, activation={net.activation!r}, output={net.output!r}, "
    text += f"seed={net.seed})"
    return {
        "mlp": text,
        "scaled": f"Scaled({text})",
        "gradient": f"femnn.Gradient({text})",
    }[net.kind]


def _femnn(p: Problem) -> str:
    return f"""
def build():
    o = operands(mine)
    k = [{", ".join(_law(i, law) for i, law in enumerate(p.laws))}]
    bcs = conditions(mine, k)
    options = {{**NEWTON, **{OPTIONS[p.options]}}}
{_solver(p)}

    J = goal(mine, k, at)

    def measure_goal():
        return femnn.assemble(J)

    return k, solve, measure_goal


at = [{", ".join(law.measure if law.measure != "nodes" else "None" for law in p.laws)}]
mine = fields()
k, solve, measure_goal = build()
""".strip()


def _law(i: int, law: Law) -> str:
    net = f"nets[{law.net}], *o[{i}]"
    place = TERMS[law.term]
    if place.place == "nodes":
        return f"femnn.NeuralCoefficient({net}, space={place.nodes})"
    degree = "" if law.degree is None else f", degree={law.degree}"
    measure = "" if law.measure == "dx" else f", measure={law.measure}"
    return f"femnn.NeuralCoefficient({net}{measure}{degree})"


def _solver(p: Problem) -> str:
    sides, warm = "F == 0", "" if p.warm_start else ", warm_start=False"
    text = '    F = equation(mine, k, at, lambda law: law("+"))\n' + _middle(p, "    F", "mine")
    make = "femnn.NeuralVariationalProblem(F, mine.u, bcs)"
    if p.form == "a == L":
        sides, make = "a == L", "femnn.NeuralVariationalProblem.linear(a, L, mine.u, bcs)"
        text = (
            "    trial = SimpleNamespace(**{**vars(mine), 'u': TrialFunction(V)})\n"
            '    F = equation(trial, k, at, lambda law: law("+"))\n    a, L = lhs(F), rhs(F)\n'
        )
    if p.call == "kept":
        return text + (
            f"    problem = {make}\n    solver = femnn.NeuralVariationalSolver("
            f"problem, solver_parameters=options{warm})\n    solve = solver.solve"
        )
    return text + (
        "\n    def solve():\n"
        f"        femnn.solve({sides}, mine.u, bcs, solver_parameters=options{warm})"
    )


def _middle(p: Problem, form: str, side: str) -> str:
    """The residual at the middle of the step."""
    middle = f"{{{side}.u: 0.5 * {side}.u + 0.5 * {side}.un}}"
    return f"{form} = replace({form.strip()}, {middle})\n" if p.theta else ""


def _oracle(p: Problem) -> str:
    at = ", ".join(
        "None" if law.measure == "nodes" else f"{law.measure}(degree=k[{i}].degree)"
        for i, law in enumerate(p.laws)
    )
    laws = ", ".join(
        f"written(nets[{w.net}], w[{w.net}], hidden[{w.net}], o_[{i}])"
        for i, w in enumerate(p.laws)
    )
    nodes = {i: TERMS[w.term].nodes for i, w in enumerate(p.laws) if w.measure == "nodes"}
    places = "".join(
        f"nodal[{i}], k_[{i}] = k_[{i}], Function({space})\n" for i, space in nodes.items()
    )
    middle = _middle(p, "F_", "other")
    return f"""
other = fields()
w = [Constant(values(weight)) for weight in weights]
hidden = [Constant(Hidden(net).numbers) for net in nets]
at_ = [{at}]
o_ = operands(other)
k_ = [{laws}]
nodal = {{}}
{places}F_ = equation(other, k_, at_, lambda law: law)
{middle}problem_ = NonlinearVariationalProblem(F_, other.u, conditions(other, k_))
solver_ = NonlinearVariationalSolver(problem_, solver_parameters={{**NEWTON, **DIRECT}})


J_ = goal(other, k_, at_)


def at_nodes():
    for i, expression in nodal.items():
        k_[i].interpolate(expression)


def solve_other():
    at_nodes()  # of what the operands hold now
    solver_.solve()


def oracle():
    other.u.assign(0)
    at_nodes()
    return run(other, k_, solve_other, lambda: assemble(J_))
""".strip()


def _actions(p: Problem) -> str:
    pairs = [
        f'    "{name}": (mine.{name}, other.{name}),'
        for name in ("f", "m", "c", "b", "g", "start", "time", "u", "un")
    ]
    pairs += [f'    "w{i}": (weights[{i}], w[{i}]),' for i in range(len(p.nets))]
    pairs += [f'    "h{i}": (Hidden(nets[{i}]), hidden[{i}]),' for i in range(len(p.nets))]
    checked = [i for i, law in enumerate(p.laws) if TERMS[law.term].in_goal]
    lines = [f"# {a}\n{ACTIONS.get(a) or MOVES[a]}" for a in p.actions]
    return (
        f"""
@contextmanager
def shared_folder(comm):
    with tempfile.TemporaryDirectory() as folder:
        yield comm.bcast(folder)
        comm.barrier()


def check_other(case):
    \"\"\"Another functional of the same coefficients, at what is held now.\"\"\"
    with case.present(), stop_annotating():
        for i in {checked}:
            found, wanted = femnn.assemble(k[i] * at[i]), assemble(k_[i] * at_[i])
            compare("assembled", found, wanted, 1e-9, 1e-12)


pairs = {{
{chr(10).join(pairs)}
}}
record = lambda: run(mine, k, solve, measure_goal)
case = Case(pairs, {list(p.controls)}, record, oracle, {p.numbers})
""".strip()
        + "\n"
        + "\n".join(lines)
    )
