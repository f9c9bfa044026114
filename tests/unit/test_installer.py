"""The installer: keys, resuming, locking and messages; no network, nothing is compiled."""

import re
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from install import build, failure, layout, lock, pins, recipe, system  # noqa: E402
from install.recipe import Command, Step  # noqa: E402


def shell(script):
    """Return a command that runs a line of shell."""
    return Command(("sh", "-c", script))


def fake_steps(*scripts, stages=None, seed="seed"):
    """Return one step for each script, one stage each unless told otherwise."""
    stages = stages or range(len(scripts))
    plain = [
        Step(name=f"s{i}", what="fake", minutes=0.1, stage=stage, commands=(shell(script),))
        for i, (script, stage) in enumerate(zip(scripts, stages, strict=True))
    ]
    return recipe.with_digests(plain, seed)


@pytest.fixture
def place(tmp_path):
    """Return the layout of an environment that is not there yet."""
    return layout.Layout(env=tmp_path / "env", wheels=tmp_path / "wheels")


def lines(place):
    """Return what the fake steps have written."""
    return (place.env / "trace").read_text().split()


TRACE = "echo {0} >> {{env}}/trace"


class TestKey:
    def test_same_pins_give_the_same_folder(self):
        first, second = (layout.find(recipe.steps(pins.read()), {}) for _ in range(2))
        assert first == second

    @pytest.mark.parametrize("section", sorted(pins.read()))
    def test_any_changed_pin_gives_another_folder(self, section):
        before = pins.read()
        package = next(iter(before[section]))
        after = before | {section: before[section] | {package: "0.0"}}
        folders = {layout.find(recipe.steps(p), {}).env for p in (before, after)}
        assert len(folders) == 2

    def test_other_platform_gives_another_digest(self):
        plan = recipe.plan(pins.read())
        one, other = (recipe.with_digests(plan, seed)[-1].digest for seed in ("a", "b"))
        assert one != other

    def test_changed_tool_keeps_the_compiled_steps(self):
        before = pins.read()
        after = before | {"tools": before["tools"] | {"ruff": "0.0"}}
        digests = [{s.name: s.digest for s in recipe.steps(p)} for p in (before, after)]
        assert {name for name in digests[0] if digests[0][name] != digests[1][name]} == {"tools"}

    def test_documentation_leaves_the_environment_as_it_is(self, tmp_path):
        steps = recipe.steps(pins.read())
        known = pins.read(pins.DOCS_FILE)
        changed = {"docs": known["docs"] | {"myst-parser": "0.0"}}
        one, other = (recipe.with_documentation(steps, p) for p in (known, changed))
        assert one[:-1] == other[:-1] == steps
        assert one[-1].digest != other[-1].digest
        assert not set(known["docs"]) & {
            name for section in pins.read().values() for name in section
        }

    def test_folder_is_chosen_by_variables(self, tmp_path):
        steps = recipe.steps(pins.read())
        assert layout.find(steps, {"FEMNN_ENV": str(tmp_path)}).env == tmp_path
        in_cache = layout.find(steps, {"XDG_CACHE_HOME": str(tmp_path)}).env
        assert in_cache.parent == tmp_path / "femnn"
        assert in_cache.name == f"env-{steps[-1].digest[:12]}"


class TestRun:
    def test_steps_run_once_and_in_order(self, place, capsys):
        steps = fake_steps(*(TRACE.format(word) for word in "abc"))
        build.run(steps, place)
        assert lines(place) == ["a", "b", "c"]
        assert "[s0] done in" in capsys.readouterr().out
        build.run(steps, place)
        assert lines(place) == ["a", "b", "c"]
        assert capsys.readouterr().out == ""

    def test_interrupted_build_goes_on_at_the_unfinished_step(self, place):
        ready = place.env / "ready"
        steps = fake_steps(
            TRACE.format("a"), f"test -e {ready} && " + TRACE.format("b"), TRACE.format("c")
        )
        with pytest.raises(failure.SetupError, match="step 's1'"):
            build.run(steps, place)
        assert lines(place) == ["a"]
        ready.touch()
        build.run(steps, place)
        assert lines(place) == ["a", "b", "c"]

    def test_changed_step_is_done_anew_with_all_later_ones(self, place):
        build.run(fake_steps(*(TRACE.format(word) for word in "abc")), place)
        build.run(fake_steps(*(TRACE.format(word) for word in "aBc")), place)
        assert lines(place) == ["a", "b", "c", "B", "c"]

    def test_steps_of_a_stage_run_side_by_side(self, place):
        meet = "touch {env}/%d; while [ ! -e {env}/%d ]; do sleep 0.02; done"
        build.run(fake_steps(meet % (1, 2), meet % (2, 1), stages=(0, 0)), place)

    def test_failure_ends_the_steps_beside_it(self, place):
        start = time.monotonic()
        with pytest.raises(failure.SetupError, match="step 's0'"):
            build.run(fake_steps("sleep 0.2; exit 3", "sleep 600", stages=(0, 0)), place)
        assert time.monotonic() - start < 300

    def test_kept_wheel_is_made_once(self, place):
        make = Command(("sh", "-c", "mkdir {out}; echo made >> {env}/trace"), creates="{wheels}")
        step = Step(name="w", what="fake", minutes=0.1, stage=0, commands=(make,))
        steps = recipe.with_digests([step], "seed")
        build.run(steps, place)
        place.stamp(steps[0]).unlink()
        build.run(steps, place)
        assert lines(place) == ["made"]

    def test_failed_wheel_leaves_nothing_behind(self, place):
        make = Command(("sh", "-c", "mkdir {out}; exit 1"), creates="{wheels}")
        step = Step(name="w", what="fake", minutes=0.1, stage=0, commands=(make,))
        with pytest.raises(failure.SetupError, match="step 'w'"):
            build.run(recipe.with_digests([step], "seed"), place)
        assert list(place.wheels.iterdir()) == []

    def test_half_written_stamp_counts_as_not_done(self, place):
        steps = fake_steps("true")
        place.state.mkdir(parents=True)
        place.stamp(steps[0]).write_text('{"dig')
        assert build.pending(steps, place) == steps


class TestLock:
    HOLD = (
        "import sys, time, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from install import lock\n"
        "with lock.exclusive(pathlib.Path(sys.argv[2])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )

    def holder(self, path):
        """Return another process that holds the lock."""
        argv = [sys.executable, "-c", self.HOLD, str(ROOT), str(path)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        return process

    def test_second_waits_says_so_and_goes_on_when_the_first_is_killed(self, tmp_path):
        path = tmp_path / "lock"
        first = self.holder(path)
        argv = [sys.executable, "-c", self.HOLD, str(ROOT), str(path)]
        second = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        try:
            assert "waiting for it" in second.stdout.readline()
            first.kill()
            assert second.stdout.readline() == "held\n"
        finally:
            for process in (first, second):
                process.kill()
                process.communicate()

    def test_second_build_finds_the_work_done(self, place, capsys, monkeypatch):
        steps = fake_steps(TRACE.format("a"))
        take = lock.take

        def other_build_first(descriptor, path):
            monkeypatch.setattr(lock, "take", take)
            build.run(steps, place)
            take(descriptor, path)

        monkeypatch.setattr(lock, "take", other_build_first)
        build.run(steps, place)
        assert lines(place) == ["a"]
        assert "The other build has finished it." in capsys.readouterr().out


class TestMessages:
    @pytest.mark.parametrize(
        ("output", "reason"),
        [
            ("OSError: [Errno 28] No space left on device", "disk is full"),
            ("Temporary failure in name resolution", "no network"),
            ("ERROR: No matching distribution found for x==1", "not offered"),
            ("error: command 'gcc' failed: No such file or directory", "compiler"),
            ("sh: 1: mpicc: not found", "compiler"),
            ("fatal error: Python.h: No such file or directory", "header files"),
            ("E: Unable to locate package libmumps-dev", "unknown to apt"),
            ("gcc: fatal error: Killed signal terminated program cc1", "out of memory"),
            ("something else", "not known here"),
        ],
    )
    def test_failure_names_step_reason_advice_and_log(self, place, output, reason):
        with pytest.raises(failure.SetupError) as caught:
            build.run(fake_steps(f"echo '{output.replace(chr(39), '')}'; exit 7"), place)
        message = str(caught.value)
        assert "FAILED: step 's0' (exit status 7)" in message
        assert reason in message
        assert "What to do:" in message
        assert str(place.state / "s0.log") in message

    def test_without_root_the_exact_command_is_told(self, monkeypatch, tmp_path):
        monkeypatch.setattr(system, "privilege", lambda: None)
        with pytest.raises(failure.SetupError) as caught:
            system.install(["gfortran", "bison"], tmp_path / "system.log")
        command = "sudo apt-get update && sudo apt-get install -y --no-install-recommends gfortran"
        assert f"{command} bison" in str(caught.value)

    def test_nothing_missing_needs_no_root(self, monkeypatch, tmp_path):
        monkeypatch.setattr(system, "missing_packages", list)
        monkeypatch.setattr(system, "privilege", lambda: pytest.fail("asked for root"))
        system.ensure(tmp_path / "system.log")

    def test_what_the_package_manager_says_goes_to_the_log(self, tmp_path):
        log = tmp_path / "system.log"
        system.run(("sh", "-c", "echo all well"), log)
        with pytest.raises(failure.SetupError, match="step 'system'"):
            system.run(("sh", "-c", "echo no such package; exit 3"), log)
        assert "all well" in log.read_text()
        assert "no such package" in log.read_text()

    def test_folder_that_cannot_be_written_is_told(self, tmp_path):
        (tmp_path / "file").touch()
        place = layout.Layout(env=tmp_path / "file" / "env", wheels=tmp_path / "wheels")
        with pytest.raises(failure.SetupError, match="FEMNN_ENV"):
            build.run(fake_steps("true"), place)


def test_python_in_a_checkout_imports_that_checkout(tmp_path):
    """The environment's path hook finds the checkout from a folder below its root."""
    sys.path.insert(0, str(ROOT / "install" / "site"))
    from femnn_checkout import checkout

    assert checkout(ROOT / "tests") == ROOT
    assert checkout(tmp_path) is None


def test_path_command_prints_only_the_folder(tmp_path):
    """`make -s env-path` is used inside other commands."""
    argv = [sys.executable, "-m", "install", "path"]
    answer = subprocess.run(
        argv, cwd=ROOT, env={"FEMNN_ENV": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert answer.stdout == f"{tmp_path}\n"


def test_every_step_has_its_own_name_and_digest():
    """Stamps and logs are named by the step."""
    steps = recipe.steps(pins.read())
    assert len({step.name for step in steps}) == len(steps)
    assert len({step.digest for step in steps}) == len(steps)
    assert replace(steps[0], digest="") == recipe.plan(pins.read())[0]


class TestImages:
    """The two recipes of one image: docker/Dockerfile and, for Apptainer, docker/femnn.def."""

    RECIPES = tuple((ROOT / "docker" / name).read_text() for name in ("Dockerfile", "femnn.def"))

    @pytest.mark.parametrize(
        "pattern",
        [
            r"apt-get install -y --no-install-recommends \\\n +([a-z0-9 -]+\w)",
            r"FEMNN_ENV=(\S+)",
            r"OMP_NUM_THREADS=(\S+)",
            r"pip install (--no-deps --no-build-isolation --no-cache-dir)",
            r"(?:ARG BASE=|From: )(\S+)",
        ],
    )
    def test_recipes_agree(self, pattern):
        docker, apptainer = (set(re.findall(pattern, recipe)) for recipe in self.RECIPES)
        assert docker == apptainer != set()

    def test_apptainer_is_given_what_the_build_reads(self):
        text = self.RECIPES[1]
        files = [
            line.split()[0] for line in text.split("%files\n")[1].split("\n\n")[0].splitlines()
        ]
        assert all((ROOT / name).exists() for name in files)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        read = {project["project"]["readme"], *project["project"]["license-files"]}
        read |= {project["build-system"]["backend-path"][0].split("/")[0]}
        read |= {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "Makefile"}
        assert read < set(files)
