"""What the pages of the Python interface need: docstrings as they are meant, types that can be read."""

import re
from typing import Any

from docutils import nodes
from numpy.typing import ArrayLike
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

__all__ = ["setup", "without_metadata"]

_ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")


def plain_docstrings(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read as plain text; keep their formulas and sentences as they are.

    Indented lines after a blank one become a literal block, and bars are bars: |x|, not substitutions.
    """
    out: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith("    ")
        before = next((text for text in reversed(out) if text), "")
        if line and not indented:
            literal = False
        elif indented and out and not out[-1] and before and not before.startswith(" "):
            literal = True
            if not before.endswith("::"):
                out += ["::", ""]
        if literal or line.lstrip().startswith(">>>"):
            out.append(line)
        else:
            parts = re.split(r"(``.*?``)", line)
            out.append("".join(p if p.startswith("``") else p.replace("|", r"\|") for p in parts))
    if what in ("attribute", "data", "property"):
        # Napoleon would take what is before a colon in the first line for a type. An empty comment has none.
        out = ["..", "", *out]
    lines[:] = out


def without_metadata(text: str) -> str:
    """Replace ``Annotated[float, Ge(ge=0), Le(le=1)]`` by ``float``, also within other types."""
    while start := re.search(r"(?:~?\w+\.)*\bAnnotated\[", text):
        depth, base = 1, None
        for end in range(start.end(), len(text)):
            depth += (text[end] in "[({") - (text[end] in "])}")
            if text[end] == "," and depth == 1 and base is None:
                base = text[start.end() : end]
            if not depth:
                break
        else:
            raise ValueError(f"brackets are not closed: {text}")
        text = text[: start.start()] + (base or text[start.end() : end]) + text[end + 1 :]
    return text


def plain_signatures(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Say ArrayLike, not what it stands for, and no more of pydantic's fields than their type."""
    if signature:
        signature = without_metadata(signature.replace(_ARRAY_LIKE, "ArrayLike")).replace("<factory>", "...")
        signature = signature.replace(",,", ",")  # Sphinx cuts defaults out by bytes, and φ has two
        if signature == "(*args, **kwargs)" and what == "class":
            signature = ""  # of a protocol, which nobody calls
    return signature, result


def skip_unnamed(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out fields of named tuples without a docstring of their own; None leaves others to Sphinx."""
    text = getattr(thing, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None


def plain_types(app: Sphinx, doctree: nodes.document) -> None:
    """Types of attributes as in signatures; no base classes that say nothing or are nobody's to use."""
    for annotation in doctree.findall(addnodes.desc_annotation):
        # A name stands there twice, in full as well, until it is resolved.
        kept = [text for text in annotation.findall(nodes.Text) if text.parent.get("condition") != "*"]
        text = "".join(kept)
        if "Annotated[" in text:
            annotation.children.clear()
            annotation += nodes.Text(without_metadata(text))
    for paragraph in list(doctree.findall(nodes.paragraph)):
        if re.fullmatch(r"Bases: (object|_\w+)", paragraph.astext()):
            paragraph.parent.remove(paragraph)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the handlers; pages may be read and written in parallel."""
    app.connect("autodoc-process-signature", plain_signatures)
    app.connect("autodoc-process-docstring", plain_docstrings, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", skip_unnamed)
    app.connect("doctree-read", plain_types)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
