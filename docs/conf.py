"""The documentation site: ``make docs`` builds it into ``build/docs``.

The source directory is the whole repository, so that the pages' links (``../notebooks/README.md``) mean the
same here as on GitHub, where they are read as plain Markdown. Only what ``include_patterns`` names is a page.
"""

import re
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

import bgdiff

project = "bgdiff"
author = "The bgdiff developers"
copyright = f"{author}, MIT licence"
version = release = bgdiff.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]

root_doc = "docs/site"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "docs/*.md",
    "docs/api/**",
    "notebooks/*.ipynb",
    "notebooks/README.md",
    "systems/*/README.md",
]
# Directories that are not even walked.
exclude_patterns = [".*", "benchmarks", "bgdiff", "build", "dist", "notebooks/runs", "runs", "tests"]
templates_path = [str(Path(__file__).parent / "_templates")]  # autosummary would look in the source directory
# toc.not_included: READMEs are linked to, not listed. ref.python: a name is at home in one module and
# exported by its package as well; links lead to either.
suppress_warnings = ["toc.not_included", "ref.python"]

# Links to headings, as GitHub makes them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "dollarmath"]

# Notebooks are shown as they are committed. The tests execute them.
nb_execution_mode = "off"

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_use_type_comments = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "bgdiff"
html_static_path = ["_static"]
html_extra_path = ["_static/index.html"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#00557f", "color-brand-content": "#00557f"},
    "dark_css_variables": {"color-brand-primary": "#6cc5f0", "color-brand-content": "#6cc5f0"},
    "top_of_page_buttons": [],
}
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_exclude = ".linenos, .gp, .go, .c1"


def formulas(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read as plain text; keep their formulas as they are.

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
    lines[:] = out


def signatures(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Say ArrayLike, not what it stands for."""
    long = stringify_annotation(ArrayLike, "smart")
    return signature and signature.replace(long, "ArrayLike"), result


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", signatures)
    app.connect("autodoc-process-docstring", formulas, priority=100)  # before napoleon
