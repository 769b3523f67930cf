"""What the documents say: their pages, code blocks, inline code, links and headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

__all__ = [
    "PAGES",
    "ROOT",
    "Command",
    "Snippet",
    "anchors",
    "commands",
    "documented_arguments",
    "inline_code",
    "links",
    "snippets",
    "steps",
    "unread",
]

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "notebooks" / "README.md",
    *sorted((ROOT / "systems").glob("*/README.md")),
]
_PROGRAMS = r"(?:\.venv/bin/)?bgdiff |python -m benchmarks\b|python \S+\.py\b|make |pip |conda "
_SHELLS = ("sh", "bash", "console")


@dataclass(frozen=True)
class Command:
    """A command line of a document, without its comment."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Snippet:
    """A block of Python of a document."""

    page: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: Python"


@cache
def _prose_and_code(page: Path) -> tuple[list[str], list[tuple[int, str, str]]]:
    """Lines outside of code blocks (those within are empty), and code as (line number, language, line)."""
    prose, code = [], []
    fence, language = "", ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        mark = re.match(r"\s*(`{3,})(.*)", line)
        if mark and not fence:
            fence, language = mark[1], mark[2].strip()
        elif mark and mark[1] == fence:
            fence = ""
        elif fence:
            code.append((number, language, line))
        elif re.match(r" {4}\s*(?![-*] )\S", line):
            code.append((number, "", line))
        else:
            prose.append(line)
            continue
        prose.append("")
    return prose, code


def _lines_of_shells(page: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, language and text of what a shell could read; lines that a backslash ends are joined."""
    begun, first = "", 0
    for number, language, line in _prose_and_code(page)[1]:
        if language not in ("", *_SHELLS):
            continue
        text = line.strip().removeprefix("$ ")
        first = first if begun else number
        begun += text.removesuffix("\\") + " "
        if not text.endswith("\\"):
            yield first, language, begun.strip()
            begun = ""


def commands(page: Path) -> Iterator[Command]:
    """Commands in the code blocks of a page."""
    for number, _, text in _lines_of_shells(page):
        if re.match(_PROGRAMS, text):
            words = shlex.split(text.removeprefix(".venv/bin/"), comments=True)
            yield Command(page.relative_to(ROOT).as_posix(), number, tuple(words))


def documented_arguments(module: str) -> list[str]:
    """``module`` and the arguments with which the documents run it, the same wherever they do."""
    words = {command.words for page in PAGES for command in commands(page)}
    (found,) = (one[2:] for one in words if one[:3] == ("python", "-m", module))
    return list(found)


def unread(page: Path) -> Iterator[str]:
    """Lines in the shell's blocks of a page that :func:`commands` does not know."""
    for number, language, text in _lines_of_shells(page):
        if language in _SHELLS and text and not text.startswith("#") and not re.match(_PROGRAMS, text):
            yield f"{page.relative_to(ROOT).as_posix()}:{number}: {text}"


def snippets(page: Path) -> Iterator[Snippet]:
    """The blocks of Python of a page."""
    lines = [(number, line) for number, language, line in _prose_and_code(page)[1] if language == "python"]
    for _, block in groupby(enumerate(lines), key=lambda one: one[1][0] - one[0]):
        rows = [row for _, row in block]
        code = "\n".join(line for _, line in rows)
        yield Snippet(page.relative_to(ROOT).as_posix(), rows[0][0], code)


def steps(page: Path) -> list[Command | Snippet]:
    """What a page does, in its order."""
    return sorted([*commands(page), *snippets(page)], key=lambda step: step.line)


def inline_code(page: Path) -> Iterator[str]:
    """Inline code of a page."""
    return (match[1] for match in re.finditer(r"`([^`\n]+)`", "\n".join(_prose_and_code(page)[0])))


def links(page: Path) -> Iterator[str]:
    """Targets of the links and pictures of a page that are not on the network."""
    prose = re.sub(r"`[^`\n]+`", "", "\n".join(_prose_and_code(page)[0]))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            yield target


@cache
def anchors(page: Path) -> frozenset[str]:
    """Headings of a page as GitHub turns them into anchors."""
    found: set[str] = set()
    for line in _prose_and_code(page)[0]:
        if heading := re.match(r"#+ (.+)", line):
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            copies = sum(1 for name in found if re.fullmatch(re.escape(slug) + r"(-\d+)?", name))
            found.add(f"{slug}-{copies}" if copies else slug)
    return frozenset(found)
