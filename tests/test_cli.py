"""The command line: what it accepts, what it refuses and how, what it shows, how it stops."""

import io
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import bgdiff
from bgdiff.catalogue import describe_systems
from bgdiff.cli import main
from bgdiff.console import StageProgress, duration
from bgdiff.errors import BgdiffError, RunDirectoryError

HEAVY = ["matplotlib", "mdtraj", "openmm", "pymbar", "scipy", "torch"]

Call = Callable[..., "Outcome"]


class Outcome:
    """Exit code and output; ``said`` is stderr on one line, without the frames drawn around errors."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.said = re.sub(r"[\s│╭╮╰╯─]+", " ", err)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Run the command line in this process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["bgdiff", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        code = stopped.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    yield call
    root.handlers[:], root.level = handlers, level
    logging.getLogger("bgdiff").setLevel(logging.NOTSET)


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
        for command in ("run", *STAGES, "systems", "data", "reference"):
            assert re.search(rf"^│ {command} ", outcome.out, flags=re.MULTILINE), command
        assert "--resume" in outcome.out

    @pytest.mark.parametrize(
        "command", [["run"], *([stage] for stage in STAGES), ["systems"], ["data", "generate"], ["reference"]]
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


class TestSystems:
    def test_table(self, call: Call) -> None:
        outcome = call("systems")
        assert outcome.code == 0
        assert "alanine_dipeptide_vacuum" in outcome.out
        assert "double_well" in outcome.out

    def test_facts(self) -> None:
        rows = {row["name"]: row for row in describe_systems()}
        assert rows["alanine_dipeptide_vacuum"]["particles"] == "22"
        assert rows["double_well"]["particles"] == "1"
        for row in rows.values():
            assert int(row["frames"]) > 1000, row
            assert "±" in row["reference"] or "exact" in row["reference"]

    def test_broken_system_is_listed_with_what_is_wrong(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "system.yaml").write_text("name: mine\nkind: openmm\n")
        monkeypatch.setenv("BGDIFF_SYSTEMS", str(tmp_path))
        rows = {row["name"]: row for row in describe_systems()}
        assert "temperature" in rows["mine"]["title"]
        assert rows["double_well"]["particles"] == "1"


class TestData:
    def test_generate(self, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        recorded: list[Any] = []

        def generate(system: Any, out: Any, seed: int, processes: int, progress: Any, **options: Any) -> Path:
            recorded.append((system.name, out, seed, processes, options))
            progress(1, 2, "")
            return Path("made.npz")

        monkeypatch.setattr("bgdiff.data.generate.generate_data", generate)
        monkeypatch.chdir(tmp_path)
        outcome = call("data", "generate", "double_well", "--seed", 4, "--processes", 2)
        assert outcome.code == 0
        assert outcome.out == "wrote made.npz\n"
        options = {"method": None, "frames": None, "engine": "auto"}
        assert recorded == [("double_well", None, 4, 2, options)]
        call(
            "data",
            "generate",
            "double_well",
            "--method=parallel-tempering",
            "--frames",
            9,
            "--engine=openmm",
        )
        options = {"method": "parallel-tempering", "frames": 9, "engine": "openmm"}
        assert recorded[1] == ("double_well", None, 0, None, options)

    def test_existing_file_is_refused(self, call: Call, tmp_path: Path) -> None:
        (tmp_path / "x.npz").write_text("")
        outcome = call("data", "generate", "double_well", "--out", tmp_path / "x.npz")
        assert outcome.code == 2
        assert "exists already" in outcome.said

    def test_reference(self, call: Call, tmp_path: Path) -> None:
        outcome = call("reference", "double_well", "--out", tmp_path / "reference.json")
        assert outcome.code == 0
        value, written = outcome.out.splitlines()
        assert value == "ΔF(left → right) / kT = 2.629384 (exact)"
        assert written == f"wrote {tmp_path / 'reference.json'}"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--to", "double_well"], "double_well: there is no difference"),
            (["--to", "alanine_dipeptide_vacuum"], "double_well is not a molecule"),
            (["--to-temperature", "340"], "Invalid value for --to-temperature: needs --to OTHER"),
            (["--temperature", "340"], "double_well is in reduced units"),
            (["--length-ns", "1"], "double_well is integrated, not simulated"),
        ],
    )
    def test_references_that_make_no_sense(
        self, call: Call, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        outcome = call("reference", "double_well", "--out", tmp_path / "reference.json", *arguments)
        assert outcome.code == 2
        assert message in outcome.said
        assert not list(tmp_path.iterdir())


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestStageProgress:
    def show(self, steps: list[tuple[float, int, str]], terminal: bool = False, quiet: bool = False) -> str:
        """Show a stage of 1000 units; each step is (seconds, done, text)."""
        output, clock = io.StringIO(), Clock()
        console = Console(file=output, force_terminal=terminal, width=100, color_system=None)
        with StageProgress(console, quiet=quiet, clock=clock).stage("train") as progress:
            for seconds, done, text in steps:
                clock.now += seconds
                progress(done, 1000, text)
        return output.getvalue()

    def test_lines(self) -> None:
        """A line every 30 s with the percentage, the rate and the time left."""
        steps = [(0.0, 0, "start"), (10.0, 100, ""), (21.0, 310, "loss [0.5]"), (69.0, 1000, "loss 0.4")]
        assert self.show(steps).splitlines() == [
            "train ...",
            "train   31 % (310/1000, 10/s, 1 min 09 s left)  loss [0.5]",
            "train  100 % (1000/1000, 10/s, 0.0 s left)  loss 0.4",
            "✓ train  1 min 40 s  loss 0.4",
        ]

    def test_resumed_stage_is_timed_from_where_it_resumed(self) -> None:
        lines = self.show([(0.0, 900, ""), (40.0, 910, "")]).splitlines()
        assert lines[1] == "train   91 % (910/1000, 4.0 s each, 6 min 00 s left)"

    def test_bar(self) -> None:
        output = self.show([(0.0, 0, ""), (10.0, 500, "loss [0.5]"), (10.0, 1000, "")], terminal=True)
        assert "100%" in output
        assert output.endswith("✓ train  20 s\n")

    def test_stage_without_a_report(self) -> None:
        assert self.show([]).splitlines() == ["train ...", "✓ train  0.0 s"]

    def test_quiet(self) -> None:
        assert self.show([(40.0, 100, ""), (40.0, 1000, "")], quiet=True) == ""

    @pytest.mark.parametrize("terminal", [False, True])
    def test_failure_is_told_and_passed_on(self, terminal: bool) -> None:
        output = io.StringIO()
        console = Console(file=output, force_terminal=terminal, width=100, color_system=None)
        stages = StageProgress(console)
        with pytest.raises(KeyboardInterrupt), stages.stage("sample"):
            raise KeyboardInterrupt
        assert "✗ sample stopped after 0.0 s" in output.getvalue()

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.04, "0.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.6, "1 min 00 s"),
            (125, "2 min 05 s"),
            (3599.7, "1 h 00 min"),
            (3600 * 2 + 180, "2 h 03 min"),
        ],
    )
    def test_duration(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text
