"""The interactive structure view within a report: scripts, their data, and the policy that allows them."""

from dataclasses import dataclass

from jinja2 import Environment
from markupsafe import Markup

from bgdiff.analysis.embedding import packed_script, script_hash
from bgdiff.analysis.run_files import RunFiles
from bgdiff.analysis.run_structures import RunStructures
from bgdiff.analysis.structure_view import structure_view
from bgdiff.analysis.viewer_bundle import find_viewer

__all__ = ["EmbeddedView", "embedded_view"]


@dataclass(frozen=True, slots=True)
class EmbeddedView:
    """What the template writes into ``<script>`` elements.

    Attributes:
        data: JSON for the viewer script.
        library: the viewer's JavaScript, packed: over a megabyte, which the script unpacks and runs only when
            the view comes near the screen.
        script: ours, which is run at once.
        policy: sources for the ``script-src`` of a Content-Security-Policy: hashes of both, so that nothing
            else can run.
        source: package that the viewer is from.
        licences: its authors' notices.
    """

    data: Markup
    library: Markup
    script: Markup
    policy: str
    source: str
    licences: str


def embedded_view(
    run: RunFiles, structures: RunStructures | None, environment: Environment
) -> EmbeddedView | None:
    """The view of a run's structures; None if it has none, or no viewer is installed."""
    bundle = None if structures is None else find_viewer()
    data = None if structures is None or bundle is None else structure_view(run, structures)
    if bundle is None or data is None:
        return None
    loader, ours = (environment.get_template(name).render() for name in ("viewer_loader.js", "viewer.js"))
    library, script = "\n;\n".join((*bundle.scripts, loader)), f"\n{ours.strip()}\n"
    return EmbeddedView(
        Markup(data),
        Markup(packed_script(library)),
        Markup(script),
        f"{script_hash(library)} {script_hash(script)}",
        bundle.source,
        bundle.licences,
    )
