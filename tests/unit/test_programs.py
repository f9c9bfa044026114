"""``femnn doctor`` and ``femnn new``, and what is said where Firedrake is missing."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from femnn import __main__ as program
from femnn import doctor, project

ROOT = Path(__file__).parents[2]


def run(folder, *command, **variables):
    """A command in a folder, as in a shell; its exit status and all that it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PETSC_OPTIONS": "-options_left no"}
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return ran.returncode, ran.stdout + ran.stderr


class TestNew:
    def test_its_test_passes_and_its_script_runs(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert program.main(["new", "my_inversion"]) == 0
        assert "cd my_inversion" in capsys.readouterr().out
        folder = tmp_path / "my_inversion"
        assert (folder / "README.md").read_text().startswith("# my_inversion\n")
        assert str(ROOT) in (folder / "README.md").read_text()
        status, said = run(folder, "-m", "pytest", "-p", "no:cacheprovider")
        assert status == 0, said
        status, said = run(folder, "run.py", "5")
        assert status == 0, said
        assert "stations held out: rmse" in said
        assert {"figure.png", "k.safetensors", "results.json"} <= {
            path.name for path in (folder / "results").iterdir()
        }

    @pytest.mark.parametrize(
        ("name", "cure"),
        [
            ("2 plates", "wanted letters"),
            ("..", "wanted letters"),
            ("nowhere/plate", "mkdir -p nowhere"),
            ("full", "choose another name"),
            ("file", "is a file: choose another name"),
        ],
    )
    def test_what_cannot_be_is_refused(self, tmp_path, monkeypatch, capsys, name, cure):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "own.txt").write_text("own")
        (tmp_path / "file").write_text("own")
        monkeypatch.chdir(tmp_path)
        assert program.main(["new", name]) == 1
        assert cure in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "own.txt"]

    def test_an_empty_folder_is_filled(self, tmp_path):
        (tmp_path / "plate").mkdir()
        assert (project.write(tmp_path / "plate") / "model.py").exists()

    def test_a_write_that_fails_leaves_nothing(self, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(project, "_filled", fail)
        with pytest.raises(OSError, match="disk full"):
            project.write(tmp_path / "plate")
        assert list(tmp_path.iterdir()) == []


HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.parametrize("hidden", [("firedrake", "pyadjoint"), ("lazy_loader",)])
def test_what_is_missing_is_said_with_its_cure(tmp_path, hidden):
    first = HIDE.format(hidden=hidden)
    status, said = run(tmp_path, "-c", f"{first}\nimport femnn; femnn.solve")
    assert status == 1
    assert all(text in said for text in (hidden[0], "make env", "firedrakeproject.org/install"))
    status, said = run(
        tmp_path, "-c", f"{first}\nfrom femnn import __main__ as m; m.main(['new', 'a'])"
    )
    assert (status, (tmp_path / "a" / "run.py").exists()) == (0, True), said


class TestDoctor:
    def test_each_missing_package_has_a_cure(self):
        assert "make env" in doctor.cure(["torch: it is missing.", "petsc4py: it is missing."])
        told = doctor.cure(["torch: the module torch is not installed.", "lazy_loader: the same."])
        assert told == "python -m pip install torch lazy-loader"
        assert set(doctor.WITH_FIREDRAKE) < set(doctor.DISTRIBUTIONS)

    def test_what_is_missing_is_reported(self, monkeypatch, capsys):
        monkeypatch.setattr(doctor, "DISTRIBUTIONS", {"no_such_module": "no-such-module"})
        monkeypatch.setattr(doctor, "OPTIONAL", {"no_such_module": "figures"})
        assert doctor.run() == 1
        assert "What to do: python -m pip install no-such-module" in capsys.readouterr().out
        assert list(doctor.optional()) == [
            ("no_such_module", "not usable, so no figures: python -m pip install no_such_module")
        ]

    def test_petsc_does_not_warn_of_its_arguments(self, tmp_path):
        status, said = run(
            tmp_path, "-m", "femnn", "doctor", "--versions-only", PETSC_OPTIONS="-options_left yes"
        )
        assert (status, "versions-only" in said) == (0, False), said

    @pytest.mark.parametrize(
        ("built", "devices", "said"),
        [
            (None, [], "no device, so networks run on the CPU (PyTorch is built without CUDA)"),
            ("13.0", [], "no device, so networks run on the CPU (PyTorch is built for CUDA 13.0)"),
            ("13.0", ["A", "B"], "13.0: A, B"),
        ],
    )
    def test_devices_or_why_there_are_none(self, built, devices, said):
        seen = {
            "is_available": lambda: bool(devices),
            "device_count": lambda: len(devices),
            "get_device_name": lambda i: devices[i],
        }
        torch = SimpleNamespace(version=SimpleNamespace(cuda=built), cuda=SimpleNamespace(**seen))
        assert doctor.cuda(torch) == said

    def test_a_check_that_stops_says_what_to_do(self, monkeypatch, capsys):
        def stop():
            raise RuntimeError("no compiler")

        monkeypatch.setattr(doctor, "solve_and_differentiate", stop)
        assert doctor.run_self_check() == 1
        said = capsys.readouterr().out
        assert "no compiler" in said
        assert "What to do" in said


def test_pip_is_told_at_once(tmp_path):
    """The backend's first answer, by an interpreter that sees no Firedrake."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    code = f"import sys; sys.executable = {str(fake)!r}; import backend; backend.check_firedrake()"
    folder = str(ROOT / "install" / "pip")
    stub = tmp_path / "hatchling"
    stub.mkdir()
    names = "build_editable", "build_sdist", "build_wheel", "get_requires_for_build_sdist"
    (stub / "__init__.py").write_text("")
    (stub / "build.py").write_text("".join(f"{name} = None\n" for name in names))
    status, said = run(tmp_path, "-c", code, PYTHONPATH=f"{folder}:{tmp_path}")
    assert status == 1
    assert all(text in said for text in ("make env", "firedrakeproject.org/install", str(fake)))
    code = code.replace("check_firedrake()", "ANYWAY")
    assert run(tmp_path, "-c", code, PYTHONPATH=f"{folder}:{tmp_path}")[0] == 0
