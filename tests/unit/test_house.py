"""The order of the house: what its rooms import, how long modules are, the public names."""

import ast
import graphlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the roof down, as docs/design.md shows them: a room imports those below it.
ROOMS = (
    "reporting",
    "export",
    "inference",
    "training",
    "observation",
    "autograd",
    "ensembles",
    "time",
    "variational",
    "coefficient",
    "points",
    "tape",
    "fields",
    "evaluation",
    "networks",
    "parallel",
    "atomic",
)
# Above all rooms: the programs, and the public names that they use.
FLOORS = ("__main__", "doctor", "project", "femnn", *ROOMS)
TORCH_ONLY = {"networks": {"torch"}, "evaluation": {"torch", "numpy"}}
MOST_LINES = 350


class Package:
    """The source of a package.

    Parameters
    ----------
    folder
        The package's folder, named as it is imported.
    """

    def __init__(self, folder):
        self.name = folder.name
        self.sources = {}
        for path in sorted([*folder.rglob("*.py"), folder / "__init__.pyi"]):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.sources.setdefault(name, []).append(path)
        self.imports = {name: self._imports_of(name) for name in self.sources}

    def room(self, module):
        """The room of a module: the folder or the file directly in the package."""
        return module.split(".")[1] if "." in module else module

    def _imports_of(self, module):
        """What the module imports, anywhere in it: its own modules, and the names of others."""
        found = set()
        for path in self.sources[module]:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {self._known(alias.name) for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    base = self._base(module, path, node)
                    found |= {self._known(f"{base}.{alias.name}") for alias in node.names}
        return found - {module, None}

    def _base(self, module, path, node):
        if not node.level:
            return node.module
        package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, node.module] if node.module else package)

    def _known(self, name):
        """The package's module that holds a name, or another package's name."""
        if name.split(".")[0] != self.name:
            return name.split(".")[0]
        while name not in self.sources:
            name = name.rpartition(".")[0]
        return name

    def own_imports(self, module):
        return sorted(n for n in self.imports[module] if n.split(".")[0] == self.name)

    def upward(self, floors):
        """The imports of a room further up; the floors are given from the roof down."""
        depth = {room: i for i, room in enumerate(floors)}
        return [
            f"{module} imports {other}"
            for module in self.sources
            for other in self.own_imports(module)
            if depth[self.room(module)] > depth[self.room(other)]
        ]

    def circle(self):
        """Modules that import each other in a circle; empty where there is none."""
        graph = {module: self.own_imports(module) for module in self.sources}
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            return error.args[1][::-1]  # each imports the next
        return []


@pytest.fixture(scope="module")
def femnn_source():
    return Package(ROOT / "femnn")


def test_every_room_has_its_floor(femnn_source):
    rooms = {femnn_source.room(module) for module in femnn_source.sources}
    assert rooms == set(FLOORS), "the list of rooms in this test is not that of femnn/"


def test_design_shows_the_rooms_in_this_order():
    text = (ROOT / "docs" / "design.md").read_text()
    shown = re.findall(r"^ +(\w+)(?:/|\.py)  +\S", text, flags=re.MULTILINE)
    assert tuple(dict.fromkeys(name for name in shown if name in ROOMS)) == ROOMS


def test_imports_go_down(femnn_source):
    found = femnn_source.upward(FLOORS)
    assert not found, "imports of a room further up:\n" + "\n".join(found)


def test_imports_have_no_circle(femnn_source):
    assert not femnn_source.circle()


@pytest.mark.parametrize("room", TORCH_ONLY)
def test_room_needs_torch_and_numpy_only(femnn_source, room):
    allowed = TORCH_ONLY[room] | {"femnn"} | set(sys.stdlib_module_names)
    found = [
        f"{module} imports {other}"
        for module in femnn_source.sources
        if femnn_source.room(module) == room
        for other in sorted(femnn_source.imports[module])
        if other.split(".")[0] not in allowed or femnn_source.room(other) == "parallel"
    ]
    assert not found, f"{room} is to run without them:\n" + "\n".join(found)


def test_modules_are_short(femnn_source):
    lengths = {
        path.relative_to(ROOT): len(path.read_text().splitlines())
        for paths in femnn_source.sources.values()
        for path in paths
    }
    long = {str(path): lines for path, lines in lengths.items() if lines > MOST_LINES}
    assert not long, f"modules of more than {MOST_LINES} lines"


def test_public_names_stand_once_each_with_its_own_module():
    import femnn

    stub = ast.parse((ROOT / "femnn" / "__init__.pyi").read_text())
    listed = [
        (alias.name, alias.asname, node.module)
        for node in ast.walk(stub)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    names = Counter(name for name, *_ in listed)
    assert [name for name, count in names.items() if count > 1] == []
    for name, public_name, module in listed:
        assert public_name == name
        assert getattr(femnn, name).__module__ == f"femnn.{module}", name
        assert getattr(femnn, name).__name__ == name
    assert sorted(femnn.__all__) == sorted(names)


def test_dir_shows_public_names_only():
    import femnn
    import femnn.networks.mlp

    assert sorted(dir(femnn)) == sorted(femnn.__all__)


def test_import_of_femnn_imports_neither_torch_nor_firedrake():
    code = "import sys, femnn; print(*{'torch', 'numpy', 'firedrake', 'mpi4py'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == ""


UP = {
    "from femnn.high.b import x": "femnn.high.b",
    "from femnn.high import b": "femnn.high.b",
    "from ..high import b": "femnn.high.b",
    "from ..high.b import x": "femnn.high.b",
    "from .. import high": "femnn.high",
    "import femnn.high.b as c": "femnn.high.b",
    "from femnn import x": "femnn",
    "import femnn": "femnn",
    "def f():\n    from femnn.high.b import x": "femnn.high.b",
    "if TYPE_CHECKING:\n    from femnn.high.b import x": "femnn.high.b",
}


@pytest.mark.parametrize("statement", UP)
def test_arrow_upwards_is_seen(tmp_path, statement):
    package = _package(tmp_path, {"low/a": statement, "high/b": "x = 1"})
    assert package.upward(["femnn", "high", "low"]) == [f"femnn.low.a imports {UP[statement]}"]
    assert package.circle() == []


def test_circle_is_seen(tmp_path):
    package = _package(
        tmp_path,
        {
            "low/a": "from .b import y",
            "low/b": "def f():\n    from femnn.low import c",
            "low/c": "",
        },
    )
    assert package.circle() == []
    (tmp_path / "femnn/low/c.py").write_text("if TYPE_CHECKING:\n    from .a import z")
    circle = Package(tmp_path / "femnn").circle()
    assert circle[0] == circle[-1]
    assert set(circle) == {"femnn.low.a", "femnn.low.b", "femnn.low.c"}


def _package(folder, files):
    for name, text in files.items():
        path = folder / "femnn" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    for name in ("__init__.py", "__init__.pyi"):
        (folder / "femnn" / name).touch()
    return Package(folder / "femnn")
