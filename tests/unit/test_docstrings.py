"""Docstrings of what is public name all parameters, what is returned and raised, and shapes."""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap

import numpy as np
import pytest
from numpydoc.docscrape import NumpyDocString

import femnn

ARRAY = re.compile(r"\b(nd)?arrays?\b|\bTensors?\b")
SHAPE = re.compile(r"\bshapes?\b|``\([^`]*\)``")


@pytest.mark.parametrize("name", sorted(femnn.__all__))
def test_docstring_of(name):
    faults = faults_of(name, getattr(femnn, name))
    assert not faults, "docstrings lack\n  " + "\n  ".join(faults)


def faults_of(name, thing):
    """What the docstring of a public function, or of a class and its public methods, lacks."""
    if not inspect.isclass(thing):
        return _faults_of_function(name, thing, {})
    found = _faults_of_class(name, thing)
    for method, (function, overrides) in _public_methods(thing).items():
        found += _faults_of_function(f"{name}.{method}", function, _helpers_of(thing), overrides)
    return found


def _faults_of_class(name, cls):
    doc = _parsed(cls)
    if doc is None:
        return [f"{name}: no docstring"]
    entries = doc["Parameters"]
    if dataclasses.is_dataclass(cls):
        entries = entries + doc["Attributes"]
        init, annotations = [], {field.name: field.type for field in dataclasses.fields(cls)}
    else:
        init = [cls.__init__] if cls.__init__.__module__.startswith(_package(cls)) else []
        annotations = _annotations(init[0])[0] if init else {}
    found = _parameters(name, annotations, entries)
    found += _shapes(name, entries + doc["Attributes"], annotations)
    return found + _raises(name, init, _helpers_of(cls), doc)


def _faults_of_function(name, thing, helpers, overrides=False):
    """``overrides``: it takes the place of a framework's method, which has a docstring there."""
    functions, doc = _functions_of(thing), _parsed(thing)
    if doc is None and not overrides:
        return [f"{name}: no docstring"]
    found = _raises(name, functions, helpers, doc)
    annotations, returned = _annotations(functions[0])
    if isinstance(thing, (property, functools.cached_property)):
        bare = ARRAY.search(returned) and not (doc and SHAPE.search(thing.__doc__))
        return [*found, f"{name}: no shape"] if bare else found
    if overrides and not (doc and (doc["Parameters"] or doc["Returns"])):
        return found
    found += _parameters(name, annotations, doc["Parameters"])
    found += _shapes(name, doc["Parameters"], annotations)
    if returned != "None":
        found += _returns(name, returned, doc["Returns"] + doc["Yields"])
    return found


def _parameters(name, annotations, entries):
    documented = [p.lstrip("*\\") for entry in entries for p in entry.name.split(", ")]
    more = [p for p in documented if p not in [a.lstrip("*") for a in annotations]]
    if any(a.startswith("**") for a in annotations):
        more = []  # keywords that go there
    return [
        *(
            f"{name}: parameter {a} is missing"
            for a in annotations
            if a.lstrip("*") not in documented
        ),
        *(f"{name}: there is no parameter {p}" for p in more),
    ]


def _shapes(name, entries, annotations):
    """Entries of arrays without a shape; where they are said to be as elsewhere, it is there."""
    found = []
    for entry in entries:
        text = " ".join([entry.type, *entry.desc])
        types = " ".join(str(annotations.get(p, "")) for p in entry.name.split(", "))
        is_told = SHAPE.search(text) or text.strip().startswith("As for")
        if ARRAY.search(f"{text} {types}") and not is_told:
            found.append(f"{name}: {entry.name or entry.type} has no shape")
    return found


def _returns(name, annotation, results):
    if not results:
        return [f"{name}: Returns is missing"]
    bare = [r.name or r.type for r in results if not "".join(r.desc).strip()]
    text = " ".join(word for r in results for word in (r.type, *r.desc))
    found = [f"{name}: what is returned, {r}, is not described" for r in bare]
    if ARRAY.search(f"{annotation} {text}") and not SHAPE.search(text):
        found.append(f"{name}: what is returned has no shape")
    return found


def _raises(name, functions, helpers, doc):
    entries = doc["Raises"] if doc else []
    names = [name for entry in entries for name in (entry.name or entry.type).split(", ")]
    documented = [name.rpartition(".")[2] for name in names]
    raised = sorted({error for f in functions for error in _raised_by(f, helpers)})
    return [f"{name}: {error} is not under Raises" for error in raised if error not in documented]


def _raised_by(function, helpers, depth=1):
    """What a function raises, and the private helpers of its module that it calls."""
    source = ast.parse(textwrap.dedent(inspect.getsource(function)))

    def raised_in(node):
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Try):
            handled = " ".join(ast.unparse(h.type) for h in node.handlers if h.type)
            inside = {error for child in node.body for error in raised_in(child)}
            found = {error for error in inside if not re.search(rf"\b{error}\b", handled)}
            children = [child for child in children if child not in node.body]
        else:
            found = set()
        for child in children:
            found |= raised_in(child)
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(ast.unparse(raised).rpartition(".")[2])
        elif isinstance(node, ast.Call) and depth:
            called = ast.unparse(node.func)
            helper = helpers.get(called) or function.__globals__.get(called)
            is_near = getattr(helper, "__module__", None) == function.__module__
            if called.rpartition(".")[2].startswith("_") and is_near and inspect.isfunction(helper):
                found |= _raised_by(helper, helpers, depth - 1)
        return found

    return {error for error in raised_in(source) if error[:1].isupper()}


def _public_methods(cls):
    """Methods and properties of the package's own classes, and which of them override others'."""
    kinds = (classmethod, staticmethod, property, functools.cached_property)
    own = [base for base in cls.__mro__ if base.__module__.startswith(_package(cls))]
    others = [base for base in cls.__mro__ if base not in own]
    found = {}
    for base in reversed(own):
        for name, value in vars(base).items():
            if not name.startswith("_") and (isinstance(value, kinds) or inspect.isfunction(value)):
                found[name] = value, any(hasattr(other, name) for other in others)
    return found


def _helpers_of(cls):
    """A class's private methods, by what its methods call them."""
    found = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if name.startswith("_") and isinstance(value, (staticmethod, classmethod)):
                value = value.__func__
            if name.startswith("_") and inspect.isfunction(value):
                found[f"self.{name}"] = found[f"cls.{name}"] = inspect.unwrap(value)
    return found


def _functions_of(thing):
    if isinstance(thing, property):
        return [f for f in (thing.fget, thing.fset) if f is not None]
    if isinstance(thing, functools.cached_property):
        return [thing.func]
    return [inspect.unwrap(getattr(thing, "__func__", thing))]


def _annotations(function):
    """The annotation of each parameter, and of what is returned."""
    signature = inspect.signature(function)
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    named = {stars.get(p.kind, "") + p.name: p.annotation for p in parameters}
    return named, str(signature.return_annotation)


def _parsed(thing):
    return NumpyDocString(inspect.cleandoc(thing.__doc__)) if thing.__doc__ else None


def _package(cls):
    return cls.__module__.split(".")[0]


def _documented(x: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Scale.

    Parameters
    ----------
    x
        Values, shape ``(n,)``.
    factor
        The factor.

    Returns
    -------
    numpy.ndarray
        Scaled values, shape ``(n,)``.

    Raises
    ------
    TypeError
        If ``x`` is not an array.
    ValueError
        If the factor is negative.
    """
    try:
        _check(x)
        raise KeyError
    except KeyError:
        pass
    if factor < 0:
        raise ValueError("negative")
    return factor * x


def _check(x):
    if not isinstance(x, np.ndarray):
        raise TypeError("no array")


def _changed(old, new):
    """The documented function with another docstring."""
    copy = type(_documented)(_documented.__code__, globals(), "f")
    copy.__doc__ = _documented.__doc__.replace(old, new)
    copy.__annotations__, copy.__defaults__ = _documented.__annotations__, (1.0,)
    return copy


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("    factor\n        The factor.\n", "", "parameter factor is missing"),
        ("The factor.\n", "The factor.\n    y\n        Another.\n", "there is no parameter y"),
        ("Values, shape ``(n,)``.", "Values.", "x has no shape"),
        ("Scaled values, shape ``(n,)``.", "Scaled values.", "what is returned has no shape"),
        ("Returns\n    -------", "Notes\n    -----", "Returns is missing"),
        (
            "    ValueError\n        If the factor is negative.\n",
            "",
            "ValueError is not under Raises",
        ),
        ("TypeError", "KeyError", "TypeError is not under Raises"),
    ],
)
def test_fault_is_found(old, new, fault):
    assert faults_of("f", _changed(old, new)) == [f"f: {fault}"]


def test_no_fault_is_found_where_there_is_none():
    assert faults_of("f", _documented) == []


class _Framework:
    def evaluate(self, x):
        """Of another package."""


_Framework.__module__ = "elsewhere"


class _Model(_Framework):
    """A model.

    Parameters
    ----------
    size
        Its size.
    """

    def __init__(self, size: int):
        self._check(size)

    def _check(self, size):
        if size < 0:
            raise ValueError(f"size={size}")

    def evaluate(self, x):
        raise NotImplementedError

    def run(self) -> int:
        """Run."""

    @property
    def values(self) -> np.ndarray:
        """Values."""


def test_faults_of_a_class_are_found():
    assert faults_of("M", _Model) == [
        "M: ValueError is not under Raises",
        "M.evaluate: NotImplementedError is not under Raises",
        "M.run: Returns is missing",
        "M.values: no shape",
    ]
