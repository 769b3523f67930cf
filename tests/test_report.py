"""The report: complete, self-contained, honest about damage, and safe with any text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import chains, cluster, double_well

from bgdiff.analysis.cluster_record import read_pairs
from bgdiff.analysis.report import build_report
from bgdiff.analysis.results import read_results, write_results
from bgdiff.analysis.run_files import read_history, read_run
from bgdiff.errors import CheckpointError
from bgdiff.io import write_json


class Outline(HTMLParser):
    """Checks that tags are balanced; collects text, addresses and alternative texts."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.addresses: list[str] = []
        self.alternatives: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.stack.append(tag)
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.addresses += [values[key] or "" for key in ("src", "href", "action", "poster") if key in values]
        if tag == "img":
            self.alternatives.append(values.get("alt") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack[-1:] not in (["script"], ["style"]):
            self.text += data


def outline(path: Path) -> Outline:
    parser = Outline()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.stack == []
    parser.text = re.sub(r"\s+", " ", parser.text)
    return parser


def test_report_of_a_molecule(molecule_report: Path) -> None:
    directory = molecule_report.parent
    page = outline(molecule_report)
    for words in (
        "Alanine dipeptide (ACE-ALA-NME)",
        "preset standard · seed 7 · 300 K · 20 000 samples",
        "Reliable",
        "ΔF(phi_negative → phi_positive)",
        "kJ/mol; reference 4.680 ± 0.050",
        "replica exchange, 4 repeats",
        "−180° ≤ φ < 0° or 130° ≤ φ < 180°",
        "(Σw)²/(N Σw²)",
        "train 6 min 12 s",
        "torch 2.13.0",
        "config.training.steps",
        "1 kT = 2.4943 kJ/mol at 300 K",
    ):
        assert words in page.text, words
    names = {path.name for path in (directory / "figures").glob("*.png")}
    assert names == {
        "ramachandran.png", "profile_phi.png", "energies.png", "weights.png", "training.png",
        "structures.png", "superposed.png",
    }  # fmt: skip
    for name in names:
        assert f"figures/{name}" in page.text


def test_a_temperature_stays_on_one_line(molecule_report: Path) -> None:
    """In titles and captions; only the settings, which are quoted, have it as it was written."""
    text = molecule_report.read_text(encoding="utf-8")
    (heading,) = re.findall("<h1>(.*)</h1>", text)
    assert heading.endswith("300\u00a0K")
    assert "300&nbsp;K ·" in text
    assert not re.search(r"\d K\b", re.sub(r"(?s)<script.*?</script>|<pre.*?</pre>", "", text))


def test_report_needs_no_network(molecule_report: Path) -> None:
    page = outline(molecule_report)
    within = [address for address in page.addresses if address.startswith("#")]
    pictures = [address for address in page.addresses if address not in within]
    assert {address[1:] for address in within} <= set(page.ids)
    assert len(pictures) == 7
    assert all(re.match("data:image/(png;base64,iVBOR|webp;base64,UklGR)", address) for address in pictures)
    assert all(len(text) > 20 for text in page.alternatives)
    assert not {"iframe", "object", "link", "form"} & set(page.tags)
    assert "default-src 'none'" in molecule_report.read_text(encoding="utf-8")


def test_report_of_a_toy_with_exact_curves(tmp_path: Path) -> None:
    _, exact = double_well(tmp_path, n=3000)
    page = outline(build_report(tmp_path, exact))
    assert "Free-energy profile along x" in page.text
    assert "deviation from the exact curve" in page.text
    assert "reference 2.629382 (exact)" in page.text
    assert "x < 0" in page.text
    assert "kJ/mol" not in page.text
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {
        "map_x_y", "profile_x", "profile_y", "energies", "weights", "training",
    }  # fmt: skip


def test_report_of_chains(tmp_path: Path) -> None:
    chains(tmp_path)
    page = outline(build_report(tmp_path))
    for words in (
        "How good the chains are",
        "by replica exchange",
        "replica exchange samples the target without its normaliser",
        "largest rank-normalised split R-hat",
        "43.3 %, least 31.0 %",
        "2 345",
        "all draws after the burn-in",
        "Running average of the slowest quantity",
        "these numbers",
    ):
        assert words in page.text, words
    for words in ("Pareto", "Kish", "counted in the proposal / kT:", "None", "nan"):
        assert words not in page.text, words
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {
        "map_x_y", "profile_x", "energies", "training", "chains",
    }  # fmt: skip


def test_report_of_a_cluster(tmp_path: Path) -> None:
    cluster(tmp_path, n=1000)
    page = outline(build_report(tmp_path))
    for words in (
        "The virial ⟨x·∇u⟩ of the samples is 36.20 ± 0.40 and must be 36: they agree.",
        "Held-out equilibrium data",
        "6 000 held-out frames of 20 independent simulations",
        "energies (W2) 0.310 ± 0.050 1.7 0.290 ± 0.040 1.07",
        "Free energy of bond order and size",
        "superposed on the first by a rotation and an exchange of equal particles",
        "the distances of all pairs of particles",
    ):
        assert words in page.text, words
    for words in ("Ramachandran", "torsion", "None", "nan"):
        assert words not in page.text, words
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {
        "structures", "superposed", "map_bond_order_size", "profile_size", "profile_bonds",
        "profile_bond_order", "pair_distances", "energies", "weights", "training",
    }  # fmt: skip


@pytest.mark.usefixtures("no_figures")
def test_report_of_chains_on_a_cluster(tmp_path: Path) -> None:
    results = cluster(tmp_path, n=400, weighted=False)
    files = read_run(tmp_path)
    assert list(read_pairs(files.cluster)) == ["data", "chains"]
    write_results(
        tmp_path / "results.json",
        results.model_copy(update={"comparison": None, "comparison_missing": "the data are short"}),
    )
    page = outline(build_report(tmp_path))
    assert "No distances to a reference: the data are short." in page.text
    assert "corrected samples" in page.text


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures have tests of their own; these need none."""
    monkeypatch.setattr("bgdiff.analysis.report.draw_figures", lambda *run: iter(()))


@pytest.mark.usefixtures("no_figures")
def test_text_is_escaped(tmp_path: Path) -> None:
    double_well(tmp_path, n=500)
    results = read_results(tmp_path / "results.json")
    evil = "<script>alert(1)</script>&\"'"
    write_results(
        tmp_path / "results.json",
        results.model_copy(update={"title": evil, "warnings": [evil], "versions": {evil: evil}}),
    )
    write_json(tmp_path / "run.json", {evil: [evil, {"deep": [1, 2]}]})
    page = outline(build_report(tmp_path))
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") >= 4


def test_same_run_same_report_in_any_format(tmp_path: Path) -> None:
    double_well(tmp_path, n=500)
    for name in ("data.npz", "train/history.jsonl", "run.json"):
        (tmp_path / name).unlink()
    first = build_report(tmp_path).read_bytes()
    assert build_report(tmp_path, formats=["svg"]).read_bytes() == first
    figures = tmp_path / "figures"
    assert {path.stem for path in figures.glob("*.svg")} == {path.stem for path in figures.glob("*.png")}
    page = outline(tmp_path / "report.html")
    assert "holds no data.npz" in page.text
    assert "holds no training history" in page.text
    assert "All settings" not in page.text


def test_torn_history_is_read_as_far_as_it_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1, "score": 2.0}\n\n[3]\n{"step": 2, "sco')
    assert read_history(path) == [{"step": 1, "score": 2.0}]
    assert "2 damaged lines" in caplog.text
    assert read_history(tmp_path / "missing.jsonl") == []


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"results\.json: file is missing"):
        build_report(tmp_path)
    double_well(tmp_path, n=300)
    proposal = tmp_path / "proposal.npz"
    content = proposal.read_bytes()
    proposal.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"proposal\.npz: corrupt or truncated"):
        build_report(tmp_path)
    np.savez(proposal, energy=np.zeros(300))
    with pytest.raises(CheckpointError, match="has no array log_weight"):
        build_report(tmp_path)
    np.savez(proposal, energy=np.zeros(4), log_weight=np.zeros(4))
    with pytest.raises(CheckpointError, match=r"results\.json speaks of 300 samples"):
        build_report(tmp_path)
    proposal.unlink()
    with pytest.raises(CheckpointError, match=r"proposal\.npz: file is missing"):
        build_report(tmp_path)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    double_well(tmp_path, n=300)
    np.savez(tmp_path / "data.npz", energy=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match=r"data\.npz: corrupt"):
        read_run(tmp_path)
