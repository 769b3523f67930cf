"""The documentation site: ``make docs`` builds it into ``build/docs``.

The source directory is the whole repository, so that the pages' links (``../notebooks/README.md``) mean the
same here as on GitHub, where they are read as plain Markdown. Only what ``include_patterns`` names is a page.
"""

import sys
from pathlib import Path

import bgdiff

sys.path.insert(0, str(Path(__file__).parent))

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
    "reference_pages",  # docs/reference_pages.py
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
autodoc_default_options = {"exclude-members": "model_config"}  # pydantic's
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
