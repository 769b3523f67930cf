"""What ``bgdiff data import`` found, as a short table."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bgdiff.analysis.text import with_error
from bgdiff.data.importing import Imported
from bgdiff.data.importing_source import Source
from bgdiff.data.importing_warnings import by_files

__all__ = ["import_view"]


def import_view(imported: Imported) -> Group:
    """One row per trajectory, what was done to each, and the virial of all."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("trajectory", overflow="fold")
    for title in ("frames", "kept", "burn-in", "stride"):
        table.add_column(title, justify="right")
    table.add_column("suggested\nburn-in, stride", justify="right")
    table.add_column("one independent\nframe in", justify="right")
    for source in imported.sources:
        name, slow = source.memory.slowest
        table.add_row(
            Text(source.file),
            str(source.frames),
            str(source.kept),
            str(source.burn_in),
            str(source.stride),
            f"{source.suggested_burn_in}, {source.memory.stride}",
            Text(f"{slow:.0f} ({name})"),
        )
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim", overflow="fold", max_width=24)
    facts.add_column(overflow="fold")
    for text, files in by_files(imported.sources, _done).items():
        facts.add_row(Text(files), Text(text))
    facts.add_row("together", Text(_judged(imported)))
    return Group(table, facts)


def _judged(imported: Imported) -> str:
    """The temperature that forces and frames agree on."""
    agreement, kelvin = imported.agreement, imported.temperature
    value = with_error(kelvin * agreement.ratio, kelvin * agreement.ratio_error)
    unit = "" if kelvin == 1 else " K"
    return f"forces and frames agree on {value}{unit}; {kelvin:g}{unit} was said"


def _done(source: Source) -> Iterator[str]:
    """What was noticed and put right, in a few words each."""
    if source.left_out:
        kinds = ", ".join(f"{count} atoms of {kind}" for kind, count in source.left_out.items())
        yield f"left out: {kinds}"
    if source.moved:
        yield f"{source.moved} of {source.atoms} atoms put in the system's order"
    if source.whole:
        yield f"{source.whole} frames made whole across the periodic box"
    for centre, frames in source.findings.relabelled.items():
        yield f"equal atoms at {centre} relabelled in {frames} frames"
    if centres := source.findings.stereocentres:
        yield f"chirality as in the topology file at {', '.join(centres)}"
    if cis := source.findings.cis:
        kinds = ", ".join(f"{bond} {count}" for bond, count in cis.items() if count) or "none"
        yield f"peptide bonds: {len(cis)}, frames in cis: {kinds}"
