"""Progress of stages on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from bgdiff.console import StageProgress, duration


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
