"""The documents say what is there: links and anchors, code, messages, examples in docstrings."""

import ast
import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest
from documents import PAGES, ROOT, anchors, links

FAQ = ROOT / "docs" / "faq.md"
# Public modules whose docstrings hold examples.
EXAMPLES = sorted(p for p in (ROOT / "bgdiff").rglob("*.py") if "\n    >>> " in p.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        file, _, anchor = target.partition("#")
        found = page.parent / file if file else page
        assert found.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


def test_every_page_is_in_the_site() -> None:
    """Pages of docs/ that the table of contents lacks would not be found."""
    site = ROOT / "docs" / "site.md"
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", site.read_text(encoding="utf-8"), flags=re.DOTALL)
    entries = {line for block in blocks for line in block.split("\n") if line and not line.startswith(":")}
    files = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"site"}
    files |= {f"../notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert files <= entries
    for entry in entries:
        found = [(site.parent / entry).with_name(Path(entry).name + end) for end in (".md", ".rst", ".ipynb")]
        assert any(path.exists() for path in found), entry


def test_the_reference_names_modules_that_exist() -> None:
    text = (ROOT / "docs" / "api" / "index.rst").read_text(encoding="utf-8")
    modules = re.findall(r"^   (bgdiff[\w.]*)$", text, flags=re.MULTILINE)
    assert len(modules) > 50
    assert len(set(modules)) == len(modules)
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_is_python(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def messages_of_the_program() -> list[str]:
    """Texts in the sources, what they fill in replaced by one character."""

    def text(node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str(value)):
                return value
            case ast.JoinedStr(values=values):
                return "".join(map(text, values))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return text(left) + text(right)
        return "\0"

    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "bgdiff").rglob("*.py")]
    kinds = ast.Constant | ast.JoinedStr | ast.BinOp
    return [text(node) for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]


def test_messages_of_the_faq_are_the_programs() -> None:
    """Their words; … is what the program fills in."""
    said = "\1".join(messages_of_the_program())
    quoted = re.findall(r"^> (.+)$", FAQ.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(quoted) > 30
    parts = {part.strip(" ,:()%.") for message in quoted for part in message.split("…")}
    assert sorted(part for part in parts if part not in said) == []


def test_examples_of_docstrings() -> None:
    tried = 0
    for path in EXAMPLES:
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        failed, attempted = doctest.testmod(module)
        assert not failed, path
        tried += attempted
    assert tried >= 12
