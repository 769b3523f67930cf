"""The command line: what it accepts, what it refuses and how, what it shows, how it stops."""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Call

import bgdiff
from bgdiff.cli import main
from bgdiff.errors import BgdiffError, RunDirectoryError

HEAVY = ["matplotlib", "mdtraj", "openmm", "pymbar", "scipy", "torch"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Any, dict[str, Any]]]:
    """Replace everything the commands run by recorders; returns (function, first argument, keywords)."""
    recorded: list[tuple[str, Any, dict[str, Any]]] = []
    monkeypatch.chdir(tmp_path)

    def recorder(name: str, result: Any = None) -> Callable[..., Any]:
        def record(first: Any, *rest: Any, **keywords: Any) -> Any:
            progress = keywords.pop("progress", None)
            if rest:
                keywords["rest"] = rest
            recorded.append((name, first, keywords))
            if progress is not None and name.startswith("stage_"):
                with progress(name) as report:
                    report(1, 1, "")
            return rest[0] if name == "start_run" else result

        return record

    for name in ("start_run", "resume_run", "run_all", *(f"stage_{s}" for s in STAGES)):
        monkeypatch.setattr(f"bgdiff.run.{name}", recorder(name))
    monkeypatch.setattr("bgdiff.cli._show_results", recorder("show"))
    return recorded


STAGES = ("train", "sample", "reweight", "report")


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("bgdiff.run.run_all", fail)


class TestHelp:
    def test_lists_the_commands(self, call: Call) -> None:
        outcome = call("--help")
        assert outcome.code == 0
        for command in ("run", *STAGES, "systems", "data", "reference", "compare"):
            assert re.search(rf"^│ {command} ", outcome.out, flags=re.MULTILINE), command
        assert "--resume" in outcome.out

    @pytest.mark.parametrize(
        "command",
        [
            ["run"],
            *([stage] for stage in STAGES),
            ["systems"],
            ["data", "generate"],
            ["reference"],
            ["compare"],
        ],
    )
    def test_of_each_command(self, call: Call, command: list[str]) -> None:
        outcome = call(*command, "--help")
        assert outcome.code == 0
        assert "Usage: bgdiff " + " ".join(command) in outcome.out

    def test_version(self, call: Call) -> None:
        assert call("--version").out == f"bgdiff {bgdiff.__version__}\n"

    def test_nothing_given_shows_the_help(self, call: Call) -> None:
        outcome = call()
        assert "Commands" in outcome.out + outcome.err or "Usage" in outcome.out + outcome.err

    def test_unknown_command(self, call: Call) -> None:
        outcome = call("trian")
        assert outcome.code == 2
        assert "No such command 'trian'" in outcome.said


class TestImports:
    """Start-up is quick because nothing heavy is imported; the modules are what a test can count on."""

    @pytest.mark.parametrize(
        ("statement", "unwanted"),
        [
            ("import bgdiff", [*HEAVY, "numpy", "pydantic", "rich", "typer"]),
            ("import bgdiff.cli", [*HEAVY, "numpy", "pydantic"]),
            ("import sys; from bgdiff.cli import app; app(['--help'], standalone_mode=False)", HEAVY),
            ("import sys; from bgdiff.cli import app; app(['systems'], standalone_mode=False)", HEAVY),
            ("from bgdiff.cli import app; app(['free-energy', '--help'], standalone_mode=False)", HEAVY),
            ("import bgdiff.errors, bgdiff.io, bgdiff.random, bgdiff.progress", [*HEAVY, "numpy"]),
            ("import bgdiff.systems, bgdiff.config", HEAVY),
        ],
    )
    def test_nothing_heavy(self, statement: str, unwanted: list[str]) -> None:
        script = f"{statement}\nimport sys\nprint('LOADED', *sorted({set(unwanted)!r} & set(sys.modules)))"
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "LOADED"

    def test_every_public_name_is_there(self) -> None:
        for name in bgdiff.__all__:
            assert getattr(bgdiff, name) is not None
            assert name in dir(bgdiff)
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            _ = bgdiff.nonsense


class TestRun:
    def test_passes_on_what_is_given(self, call: Call, calls: list[Any]) -> None:
        options = ["--preset", "quick", "--seed", 3, "--out", "here", "--samples", 500, "--data", "a.dcd"]
        outcome = call("run", "double_well", *options, "--data", "b.dcd", "--set", "training.steps=7")
        assert outcome.code == 0, outcome.err
        (start, first, keywords), *rest = calls
        assert (start, first) == ("start_run", "double_well")
        assert keywords == {
            "rest": (Path("here"),),
            "preset": "quick",
            "seed": 3,
            "device": "cpu",
            "overrides": {"training": {"steps": 7}, "sampling": {"n_samples": 500}},
            "data": [Path("a.dcd"), Path("b.dcd")],
        }
        assert rest == [("run_all", Path("here"), {}), ("show", Path("here"), {})]

    def test_defaults(self, call: Call, calls: list[Any]) -> None:
        assert call("run", "folder/my_molecule/").code == 0
        _, _, keywords = calls[0]
        assert keywords == {
            "rest": (Path("runs/my_molecule-standard-0"),),
            "preset": "standard",
            "seed": 0,
            "device": "cpu",
            "overrides": {},
            "data": None,
        }

    @pytest.mark.parametrize(
        ("text", "value"),
        [("500", 500), ("1e-3", 1e-3), ("false", False), ("null", None), ("multi_level", "multi_level")],
    )
    def test_settings_are_json_or_text(self, call: Call, calls: list[Any], text: str, value: Any) -> None:
        assert call("run", "double_well", "--set", f"training.field={text}").code == 0
        assert calls[0][2]["overrides"] == {"training": {"field": value}}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "name a system"),
            (["double_well", "--seed", "-1"], "--seed"),
            (["double_well", "--seed", "one"], "--seed"),
            (["double_well", "--samples", "0"], "--samples"),
            (["double_well", "--samples", "-5"], "--samples"),
            (["double_well", "--samples", "1e30"], "--samples"),
            (["double_well", "--preset", "fast"], "'quick', 'standard', 'best'"),
            (["double_well", "--device", "gpu"], "--device gpu: must be cpu, cuda"),
            (["double_well", "--device", "cuda:-1"], "--device cuda:-1: must be cpu, cuda"),
            (["double_well", "--device", "cuda:99"], "--device cuda:99: is not usable on this machine"),
            (["double_well", "--set", "steps=5"], "--set steps=5: must look like training.steps=500"),
            (["double_well", "--nonsense"], "No such option: --nonsense"),
            (["--resume", "runs/a", "--seed", "2"], "keeps the run's own settings; drop --seed"),
            (["double_well", "--resume", "runs/a"], "keeps the run's own settings; drop SYSTEM"),
        ],
    )
    def test_refuses(self, call: Call, calls: list[Any], arguments: list[str], message: str) -> None:
        outcome = call("run", *arguments)
        assert outcome.code == 2
        assert message in outcome.said
        assert "Traceback" not in outcome.err
        assert calls == []

    def test_unknown_system(self, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        outcome = call("run", "doubel_well")
        assert outcome.code == 2
        assert "did you mean 'double_well'?" in outcome.said
        assert "Traceback" not in outcome.err
        assert not (tmp_path / "runs").exists()

    def test_resume(self, call: Call, calls: list[Any]) -> None:
        assert call("run", "--resume", "runs/a").code == 0
        names = [(name, first) for name, first, _ in calls]
        assert names == [
            ("resume_run", Path("runs/a")),
            ("run_all", Path("runs/a")),
            ("show", Path("runs/a")),
        ]

    @pytest.mark.parametrize("stage", STAGES)
    def test_stages(self, call: Call, calls: list[Any], stage: str) -> None:
        outcome = call(stage, "runs/a")
        assert outcome.code == 0
        given = {"method": None} if stage == "reweight" else {}
        assert calls[0] == (f"stage_{stage}", Path("runs/a"), given)
        assert f"✓ stage_{stage}" in outcome.err
        assert outcome.out == ""

    def test_reweighting_takes_a_method(self, call: Call, calls: list[Any]) -> None:
        assert call("reweight", "runs/a", "--method", "smc").code == 0
        assert calls[0] == ("stage_reweight", Path("runs/a"), {"method": "smc"})
        assert call("reweight", "runs/a", "--method", "magic").code == 2


class TestTrouble:
    def test_user_error_is_one_message(self, call: Call, calls: list[Any], monkeypatch: Any) -> None:
        fail_with(monkeypatch, RunDirectoryError("runs/a: holds another run [x]; choose another --out"))
        outcome = call("run", "double_well")
        assert outcome.code == 2
        assert outcome.err == "Error: runs/a: holds another run [x]; choose another --out\n"
        assert outcome.out == ""

    def test_debug_shows_the_traceback(self, calls: list[Any], monkeypatch: Any) -> None:
        fail_with(monkeypatch, BgdiffError("something is wrong"))
        monkeypatch.setattr(sys, "argv", ["bgdiff", "--debug", "run", "double_well"])
        with pytest.raises(BgdiffError, match="something is wrong"):
            main()

    def test_a_bug_is_not_dressed_up(self, calls: list[Any], monkeypatch: Any) -> None:
        fail_with(monkeypatch, ZeroDivisionError("a bug"))
        monkeypatch.setattr(sys, "argv", ["bgdiff", "run", "double_well"])
        with pytest.raises(ZeroDivisionError, match="a bug"):
            main()

    def test_interrupt_says_how_to_go_on(self, call: Call, calls: list[Any], monkeypatch: Any) -> None:
        fail_with(monkeypatch, KeyboardInterrupt())
        outcome = call("run", "double_well", "--out", "my runs/a")
        assert outcome.code == 130
        assert outcome.err == "Stopped; resume with: bgdiff run --resume 'my runs/a'\n"

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
    )
    def test_signal(self, tmp_path: Path, number: signal.Signals, code: int) -> None:
        script = (
            "import sys, time\n"
            "import bgdiff.run\n"
            "from bgdiff.cli import main\n"
            "def work(directory, progress):\n"
            "    with progress('train') as report:\n"
            "        report(1, 10, 'working')\n"
            "        print('ready', flush=True)\n"
            "        time.sleep(60)\n"
            "bgdiff.run.run_all = work\n"
            "bgdiff.run.resume_run = lambda directory: directory\n"
            "sys.argv = ['bgdiff', 'run', '--resume', 'runs/a']\n"
            "main()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(bgdiff.__file__).parent.parent)},
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == code
        assert "✗ train stopped" in err
        assert err.endswith("Stopped; resume with: bgdiff run --resume runs/a\n")
        assert "Traceback" not in err

    def test_logging(self, call: Call, calls: list[Any], monkeypatch: Any) -> None:
        def work(*_: Any, **__: Any) -> None:
            logger = logging.getLogger("bgdiff.training")
            logger.warning("3 frames [dropped]")
            logger.info("detail")
            logging.getLogger("another.library").info("noise")

        monkeypatch.setattr("bgdiff.run.run_all", work)
        assert call("run", "double_well").err == "Warning: 3 frames [dropped]\n"
        assert call("--verbose", "run", "double_well").err == "Warning: 3 frames [dropped]\ndetail\n"
