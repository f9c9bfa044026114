"""The part of a problem's script that is the same for both sides."""

from __future__ import annotations

from tests.fuzz.equations import BASES, INNER, OPERANDS, TERMS, jumps
from tests.fuzz.grammar import Law, Problem


def equations(p: Problem) -> str:
    """Functions of a side's fields: residual, operands, functional, conditions and the run."""
    base = BASES[p.space]
    unknown, before, test = base.names
    form = base.form.replace("INNER", INNER).replace("JUMP", jumps(p.cell))
    terms = [form, "-q.c * q.f * v0 * dx"]
    terms += ["inner(u, v) * dx"] if p.mass else []
    terms += ["0.1 * inner(u, u) * inner(u, v) * dx"] if p.cubic else []
    terms += ["10 * inner(u - un, v) * dx"] if p.steps else []
    terms += [_term(i, law) for i, law in enumerate(p.laws)]
    terms = [t for t in terms if t]
    operands = ", ".join(f"({', '.join(OPERANDS[o] for o in w.operands)},)" for w in p.laws)
    lines = "\n".join(f"    F += {t}" for t in terms[1:])
    return f"""
def equation(q, k, at, side):
    t = TestFunction(V)
    {unknown}
    {before}
    {test}
    F = {terms[0]}
{lines}
    return F


def operands(q):
    {unknown}
    {before}
    return [{operands}]


def goal(q, k, at):
    {unknown}
    return {_goal(p)}


def conditions(q, k):
    return [{_condition(p)}]


def run(q, k, solve, measure_goal):
{_run(p)}
""".strip()


def _term(i: int, law: Law) -> str:
    text = TERMS[law.term].text
    return (
        text.replace("SIDE(K)", f"side(k[{i}])").replace("K", f"k[{i}]").replace("AT", f"at[{i}]")
    )


def _goal(p: Problem) -> str:
    if p.goal == "plain":
        return "inner(u, u) * dx"
    if p.goal == "power":
        return "(inner(u, u) * (1 + inner(u, u)) + x[0] * inner(u, u)) * dx"
    i = int(p.goal)
    return f"inner(u, u) * dx + 0.1 * k[{i}] ** 2 * at[{i}]"


def _condition(p: Problem) -> str:
    base = BASES[p.space]
    law = [i for i, law in enumerate(p.laws) if law.term == "boundary"]
    value = {
        "none": "",
        "zero": "0",
        "number": "0.2",
        "constant": "q.b",
        "function": "q.g",
        "component": "q.g",
        "coordinates": "0.3 * x[0]",
        "overlap": "q.g",
        "law": f"k[{law[0]}]" if law else "",
    }[p.bc]
    part = "V.sub(0)" if p.bc == "component" else base.part
    first = f"DirichletBC({part}, {value}, {p.where})" if value else ""
    return first + (f", DirichletBC({part}, 0.1, 1)" if p.bc == "overlap" else "")


def _run(p: Problem) -> str:
    if not p.steps:
        return "    solve()\n    return measure_goal()"
    law = [i for i, law in enumerate(p.laws) if law.term == "initial"]
    start = f"q.u.interpolate(present(k[{law[0]}]))" if law else "q.u.assign(q.start)"
    read, last = ("        write(q.f, (1 + 0.1 * step) * data)\n", "    write(q.f, data)\n")
    if not p.driven:
        read, last = "", ""
    return f"""
    {start}
    J, data = 0, values(q.f)
    for step in range({p.steps}):
        q.un.assign(q.u)
        q.time.assign(0.1 * step)
{read}        solve()
        J += measure_goal()
{last}    return J""".strip("\n")
