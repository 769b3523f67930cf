"""What the documents say: their pages, code blocks, inline code, links and headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Command", "anchors", "commands", "inline_code", "links"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "notebooks" / "README.md",
    *sorted((ROOT / "systems").glob("*/README.md")),
]
_PROGRAMS = r"(?:\.venv/bin/)?bgdiff |python -m benchmarks\b|make |pip |conda "


@dataclass(frozen=True)
class Command:
    """A command line of a document, without its comment."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


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
        elif line.startswith("    ") and not line.strip().startswith(("-", "*")):
            code.append((number, "", line))
        else:
            prose.append(line)
            continue
        prose.append("")
    return prose, code


def commands(page: Path) -> Iterator[Command]:
    """Commands in the code blocks of a page; lines that end in a backslash go on in the next."""
    name = page.relative_to(ROOT).as_posix()
    begun, first = "", 0
    for number, language, line in _prose_and_code(page)[1]:
        text = line.strip()
        if not begun:
            if language not in ("", "sh", "bash", "console"):
                continue
            text = text.removeprefix("$ ")
            if not re.match(_PROGRAMS, text):
                continue
            first = number
        begun += text.removesuffix("\\") + " "
        if not text.endswith("\\"):
            words = shlex.split(begun.removeprefix(".venv/bin/"), comments=True)
            yield Command(name, first, tuple(words))
            begun = ""


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
