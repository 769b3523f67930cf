"""What the command line shows: progress with the time left, the table of systems, the installation."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from bgdiff.progress import Progress

__all__ = ["StageProgress", "duration", "info_view", "systems_table"]


class StageProgress:
    """Shows the stages of a run: a bar on a terminal, otherwise a line every ``interval`` seconds.

    Pass :meth:`stage` wherever a ``Callable[[str], ContextManager[Progress]]`` is asked for.

    Args:
        console: where to write; its ``is_terminal`` chooses between bar and lines.
        quiet: show nothing.
        interval: seconds between lines.
        clock: seconds since any fixed moment.
    """

    def __init__(
        self,
        console: Console,
        quiet: bool = False,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._quiet = quiet
        self._interval = interval
        self._clock = clock

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Yield the progress callback of the stage ``name``; tell at the end how long it took."""
        if self._quiet:
            yield lambda done, total, text="": None
            return
        meter = _Meter(self._clock)
        try:
            with (self._bar if self._console.is_terminal else self._lines)(name, meter) as progress:
                yield progress
        except BaseException:
            self._say(f"[red]✗[/] {name} stopped after {duration(meter.elapsed)}")
            raise
        facts = "  ".join(filter(None, [duration(meter.elapsed), escape(meter.text)]))
        self._say(f"[green]✓[/] {name}  [dim]{facts}[/]")

    def _say(self, message: str) -> None:
        self._console.print(message, highlight=False, soft_wrap=True)

    @contextmanager
    def _bar(self, name: str, meter: "_Meter") -> Iterator[Progress]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("[cyan]{task.fields[left]}", markup=True),
            TextColumn("{task.fields[text]}", style="dim", markup=False),
        )
        with RichProgress(*columns, console=self._console, transient=True) as live:
            task = live.add_task(name, total=None, left="", text="")
            shown = -1.0

            def show(done: int, total: int, text: str = "") -> None:
                nonlocal shown
                meter.update(done, total, text)
                if meter.elapsed - shown >= 0.1 or done >= total:  # a fast loop should not pay for drawing
                    shown = meter.elapsed
                    left = f"{duration(meter.left)} left" if meter.left else ""
                    live.update(task, completed=done, total=total, left=left, text=text)

            yield show

    @contextmanager
    def _lines(self, name: str, meter: "_Meter") -> Iterator[Progress]:
        self._say(f"{name} ...")
        shown = 0.0

        def show(done: int, total: int, text: str = "") -> None:
            nonlocal shown
            meter.update(done, total, text)
            if meter.elapsed - shown >= self._interval:
                shown = meter.elapsed
                self._say(f"{name}  {meter.summary()}  {escape(text)}".rstrip())

        yield show


class _Meter:
    """Rate and time left of a stage, from what it did in this process (a resumed one starts midway)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self._first: tuple[float, int] | None = None
        self._done = self._total = 0
        self.text = ""

    def update(self, done: int, total: int, text: str) -> None:
        if self._first is None:
            self._first = (self._clock(), done)
        self._done, self._total, self.text = done, total, text

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return self._clock() - self._start

    @property
    def rate(self) -> float | None:
        """Units of work per second; None before it can be told."""
        if self._first is None:
            return None
        seconds, work = self._clock() - self._first[0], self._done - self._first[1]
        return work / seconds if seconds > 0 and work > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds left; None before it can be told."""
        return None if self.rate is None else max(self._total - self._done, 0) / self.rate

    def summary(self) -> str:
        """Such as ``35 % (2100/6000, 12.4/s, 5 min 14 s left)``."""
        parts = [f"{self._done}/{self._total}"]
        if self.rate is not None and self.left is not None:
            speed = f"{self.rate:.3g}/s" if self.rate >= 1 else f"{duration(1 / self.rate)} each"
            parts += [speed, f"{duration(self.left)} left"]
        percentage = 100 * self._done / self._total if self._total else 0
        return f"{percentage:3.0f} % ({', '.join(parts)})"


def duration(seconds: float) -> str:
    """Write a time span the way people say it: ``0.4 s``, ``45 s``, ``2 min 05 s``, ``1 h 03 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def systems_table(rows: Iterable[Mapping[str, str]]) -> Table:
    """Table of the known systems; each row has name, title, particles, frames and reference."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, leading=1)
    table.add_column("system", ratio=1)
    table.add_column("particles", justify="right")
    table.add_column("data frames", justify="right")
    table.add_column("reference / kT")
    for row in rows:
        name = f"[bold cyan]{escape(row['name'])}[/]\n[dim]{escape(row['title'])}[/]"
        table.add_row(name, *(escape(row[key]) for key in ("particles", "frames", "reference")))
    return table


def info_view(info: Mapping[str, Any]) -> Group:
    """Show what :func:`bgdiff.info.collect_info` found."""
    machine, engine, versions = info["machine"], info["engine"], dict(info["versions"])
    title = Text.assemble(
        ("bgdiff ", "bold"), (info["bgdiff"], "bold cyan"), f"  Python {versions['python']}"
    )
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    energies = Text(engine["description"], style="green" if engine["compiled"] else "yellow")
    if engine["reason"]:
        energies.append(f"\n{engine['reason']}", style="dim")
    facts.add_row("energies", energies)
    facts.add_row("processor", Text(f"{machine['processor']}, {machine['system']}"))
    facts.add_row(
        "threads",
        f"{machine['threads']} in use (OMP_NUM_THREADS changes it), {machine['cores']} cores usable",
    )
    facts.add_row("devices", Text(", ".join(machine["devices"])))
    facts.add_row("OpenMM", Text(f"{versions.pop('openmm', '')}: {', '.join(info['openmm_platforms'])}"))
    del versions["python"]
    facts.add_row("packages", Text(", ".join(f"{name} {version}" for name, version in versions.items())))
    for system, presets in info["settings"].items():
        for preset, changes in presets.items():
            text = ", ".join(f"{field}={value}" for field, value in changes.items())
            facts.add_row(Text(f"{system}, {preset}"), Text(text))
    parts: list[Any] = [title, "", facts]
    if "benchmark" in info:
        what = f"{info['benchmark']['system']}, energies and forces, one thread"
        parts += ["", Text(what, style="dim"), _rates_table(info["benchmark"])]
    return Group(*parts)


def _rates_table(benchmark: Mapping[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("evaluator")
    table.add_column("per second", justify="right")
    table.add_column("against OpenMM", justify="right")
    for rate in benchmark["rates"]:
        digits = 2 if rate["ratio"] < 10 else 0
        table.add_row(
            Text(rate["name"]),
            f"{rounded(rate['per_second']):,}".replace(",", " "),
            f"{rate['ratio']:.{digits}f} ×",
        )
    return table


def rounded(value: float, digits: int = 3) -> int:
    """Round a count to so many significant digits."""
    return round(float(f"{value:.{digits - 1}e}"))
