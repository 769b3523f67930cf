"""The interactive structure view within a report: scripts, their data, and the policy that allows them."""

import base64
import hashlib
from dataclasses import dataclass

from jinja2 import Environment
from markupsafe import Markup

from bgdiff.analysis.run_files import RunFiles
from bgdiff.analysis.run_structures import RunStructures
from bgdiff.analysis.structure_view import structure_view
from bgdiff.analysis.viewer_bundle import find_viewer

__all__ = ["EmbeddedView", "embedded_view"]


@dataclass(frozen=True, slots=True)
class EmbeddedView:
    """What the template writes into ``<script>`` elements, in this order.

    Attributes:
        data: JSON for the viewer script.
        scripts: JavaScript.
        policy: sources for the ``script-src`` of a Content-Security-Policy: hashes of these scripts, so that
            nothing else can run.
        source: package that the viewer is from.
        licences: its authors' notices.
    """

    data: Markup
    scripts: tuple[Markup, ...]
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
    ours = [environment.get_template(name).render() for name in ("viewer_loader.js", "viewer.js")]
    scripts = [f"\n{script.strip()}\n" for script in (*bundle.scripts, *ours)]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return EmbeddedView(
        Markup(data),
        tuple(Markup(script) for script in scripts),
        " ".join(f"'sha256-{one}'" for one in hashes),
        bundle.source,
        bundle.licences,
    )
