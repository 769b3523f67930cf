"""The JavaScript of the report's structure view, taken from an installed nglview when a report is built.

nglview ships NGL (Rose et al., Bioinformatics 34, 3755, 2018) inside its extension of JupyterLab, a webpack
build: files that push tables of modules, ``{number: function(module, exports, require)}``, onto a global
list. The one that holds NGL, and those with modules it requires, are all that is needed; the loader among
the report's templates runs them without webpack or JupyterLab.
"""

import logging
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

__all__ = ["PACKAGE", "ViewerBundle", "find_viewer"]

logger = logging.getLogger(__name__)

PACKAGE = "nglview"
"""What to install for a structure view."""

_FOLDER = "labextensions/nglview-js-widgets/static"
_LARGEST = 4_000_000  # bytes; more would not leave room for the rest of a report
# names of NGL's public interface, which minifying keeps
_MARKS = ("StructureComponent:", "ColormakerRegistry:", "BallAndStickRepresentation:")
_DEFINED = re.compile(r"[{,](\d+):(?:function\(|\(|[\w$]+=>)")
_REQUIRED = re.compile(r"[=,(]\s*[\w$]\((\d{3,})\)")


@dataclass(frozen=True, slots=True)
class ViewerBundle:
    """Scripts in the order in which they are to run, and where they come from.

    Attributes:
        scripts: JavaScript, as shipped.
        source: package and version.
        licences: the notices that its authors want to go with it.
    """

    scripts: tuple[str, ...]
    source: str
    licences: str


@cache
def find_viewer() -> ViewerBundle | None:
    """The viewer of the installed nglview; None if there is none, or none that can be embedded."""
    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    listed = [
        Path(str(distribution.locate_file(file)))
        for file in distribution.files or ()
        if _FOLDER in file.as_posix() and file.suffix == ".js"
    ]
    files = [file for file in listed if file.is_file()]
    files = files or sorted((Path(sys.prefix) / "share" / "jupyter" / _FOLDER).glob("*.js"))
    chunks = {file: file.read_text(encoding="utf-8").removeprefix("\ufeff") for file in sorted(files)}
    chosen = _needed(chunks)
    scripts = tuple(chunks[file] for file in chosen)
    if not scripts or sum(map(len, scripts)) > _LARGEST:
        logger.warning("%s %s holds no viewer that a report can embed", PACKAGE, distribution.version)
        return None
    notices = [file.with_name(f"{file.name}.LICENSE.txt") for file in chosen]
    licences = [
        *(Path(str(distribution.locate_file(file))) for file in distribution.files or () if _licence(file)),
        *(notice for notice in notices if notice.is_file()),
    ]
    return ViewerBundle(
        scripts,
        f"{PACKAGE} {distribution.version}",
        "\n".join(file.read_text(encoding="utf-8", errors="replace").strip() for file in licences),
    )


def _needed(chunks: dict[Path, str]) -> list[Path]:
    """The file that holds NGL and the smallest ones with what it requires, dependencies first."""
    main = next((file for file, text in chunks.items() if all(mark in text for mark in _MARKS)), None)
    if main is None:
        return []
    chosen, known = [main], set(_DEFINED.findall(chunks[main]))
    required = set(_REQUIRED.findall(chunks[main])) - known
    for file in sorted(chunks, key=lambda file: len(chunks[file])):
        missing = required - known
        if found := missing & set(_DEFINED.findall(chunks[file])):
            chosen.insert(0, file)
            known |= found
    return chosen


def _licence(file: metadata.PackagePath) -> bool:
    return ".dist-info" in file.as_posix() and file.name.upper().startswith("LICENSE")
