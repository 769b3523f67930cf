"""Structures in the report: which are drawn, how they are superposed, and the viewer that shows them."""

import base64
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from synthetic_run import cluster, molecule
from test_report import outline

from bgdiff.analysis import report, viewer_bundle
from bgdiff.analysis.overlay_pictures import _SIDES
from bgdiff.analysis.report import build_report
from bgdiff.analysis.run_files import read_run
from bgdiff.analysis.run_structures import RunStructures, basin_of, read_structures
from bgdiff.analysis.structure_figures import structure_figures
from bgdiff.analysis.structure_view import structure_view
from bgdiff.analysis.style import WIDTH
from bgdiff.errors import CheckpointError
from bgdiff.systems import load_system


@pytest.fixture(scope="module")
def molecule_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    molecule(directory, n=600, conformations=True)
    return directory


@pytest.fixture(scope="module")
def cluster_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    cluster(directory, n=300)
    return directory


def structures_of(directory: Path) -> RunStructures:
    found = read_structures(directory, read_run(directory))
    assert found is not None
    return found


def test_conformations_are_superposed_as_well_as_can_be(molecule_run: Path) -> None:
    found = structures_of(molecule_run)
    assert found.atoms == "the backbone"
    trajectory = mdtraj.load(str(molecule_run / "samples.dcd"), top=str(molecule_run / "topology.pdb"))
    shown = trajectory[found.row]
    # superposing moves nothing within a conformation
    pairs = np.array([(i, j) for i in range(22) for j in range(i)])
    apart = np.linalg.norm(found.x[:, pairs[:, 0]] - found.x[:, pairs[:, 1]], axis=2)
    np.testing.assert_allclose(apart, mdtraj.compute_distances(shown, pairs, periodic=False), atol=1e-6)
    backbone = trajectory.topology.select("backbone")
    least = mdtraj.rmsd(shown, shown, 0, atom_indices=backbone, precentered=False)
    ours = np.sqrt(((found.x[:, backbone] - found.x[0, backbone]) ** 2).sum(2).mean(1))
    np.testing.assert_allclose(ours, least, atol=2e-5)
    assert found.bonds is not None
    assert {tuple(sorted(pair)) for pair in found.bonds.tolist()} == {
        tuple(sorted((one.index, other.index))) for one, other in trajectory.topology.bonds
    }


def test_they_are_drawn_in_proportion_to_their_weights(molecule_run: Path, tmp_path: Path) -> None:
    run = read_run(molecule_run)
    heavy = np.array([7, 400])
    log_weight = np.full(600, -np.inf)
    log_weight[heavy] = np.log([1.0, 3.0])
    run.proposal["log_weight"][:] = log_weight
    found = read_structures(molecule_run, run)
    assert found is not None
    assert set(found.row) == set(heavy)
    assert found.n_distinct == 2
    n = found.row.size
    z = ((found.row == 400).sum() - 0.75 * n) / np.sqrt(n * 0.75 * 0.25)
    assert abs(z) < 4


def test_particles_are_renamed_and_turned_never_moved_apart(cluster_run: Path) -> None:
    found = structures_of(cluster_run)
    x = mdtraj.load(str(cluster_run / "samples.dcd"), top=str(cluster_run / "topology.pdb")).xyz[found.row]
    i, j = np.triu_indices(13, 1)
    apart, before = (np.sort(np.linalg.norm(one[:, i] - one[:, j], axis=2)) for one in (found.x, x))
    np.testing.assert_allclose(apart, before, atol=1e-5)
    assert found.bonds is None
    for frame in (0, 5):
        close = np.linalg.norm(found.x[frame, i] - found.x[frame, j], axis=1) < 1.3 * found.contact
        assert len(found.neighbours(frame)) == close.sum()


@pytest.mark.parametrize("name", ["molecule_run", "cluster_run"])
def test_basins_are_those_of_the_system(name: str, request: pytest.FixtureRequest) -> None:
    run = read_run(request.getfixturevalue(name))
    system = load_system(run.results.system)
    values = {
        key.removeprefix("obs_"): value for key, value in run.proposal.items() if key.startswith("obs_")
    }
    which = basin_of(run.results, run.proposal)
    for index, basin in enumerate(run.results.basins):
        np.testing.assert_array_equal(which == index, system.basin(basin.name, values))


def test_caption_of_one_basin_promises_no_others(molecule_run: Path) -> None:
    run, found = read_run(molecule_run), structures_of(molecule_run)
    for phi, words in (
        ((-1.0, 1.0), "over each other, and those of each basin by themselves, without hydrogens."),
        ((-1.0, -1.0), "over each other, from three sides, without hydrogens."),
    ):
        run.proposal["obs_phi"] = np.resize(phi, run.proposal["obs_phi"].shape)
        captions = {one.name: one.caption for one in structure_figures(run, found)}
        assert words in captions["superposed"]


def test_one_basin_is_seen_from_three_sides_across_the_whole_figure(molecule_run: Path) -> None:
    """Turned, not mirrored."""
    run, found = read_run(molecule_run), structures_of(molecule_run)
    run.proposal["obs_phi"][:] = -1.0
    (figure,) = (one.figure for one in structure_figures(run, found) if one.name == "superposed")
    assert figure.get_size_inches()[0] == pytest.approx(WIDTH)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["phi negative", "from above", "from the right"]
    with io.BytesIO() as file:
        figure.savefig(file, format="rgba", dpi=60)
        pixels = np.frombuffer(file.getvalue(), dtype=np.uint8).reshape(-1, round(60 * WIDTH), 4)
    inked = (pixels[..., :3] < 200).any(2)
    assert all(third.mean() > 0.03 for third in np.array_split(inked, 3, axis=1))
    for turn in _SIDES.values():
        assert np.linalg.det(turn(np.eye(3))) == pytest.approx(1)


def test_view_holds_what_is_drawn(molecule_run: Path) -> None:
    run, found = read_run(molecule_run), structures_of(molecule_run)
    text = structure_view(run, found)
    assert text is not None
    assert "<" not in text
    content = json.loads(text)
    for index in (0, 17):
        x = np.array(content["frames"][index]["x"]).reshape(-1, 3) / 1e4  # 0.001 Å in nm
        np.testing.assert_allclose(x, found.x[index], atol=5.1e-5)
    names = [colouring["name"] for colouring in content["colourings"]]
    assert names == ["element", "basin", "weight", "energy"]
    basin = content["colourings"][1]
    meaning = dict(basin["legend"])
    which = basin_of(run.results, run.proposal)[found.row]
    shown = [meaning[colour] for colour in basin["colours"]]
    assert shown == [run.results.basins[index].name.replace("_", " ") for index in which]
    weights = content["colourings"][2]
    heaviest = int(np.argmax(run.proposal["log_weight"][found.row]))
    assert weights["colours"][heaviest] == weights["legend"][-1][0]
    assert all(
        len(colouring["colours"] or found.row) == found.row.size for colouring in content["colourings"]
    )


def test_view_of_a_cluster_counts_neighbours(cluster_run: Path) -> None:
    found = structures_of(cluster_run)
    content = json.loads(structure_view(read_run(cluster_run), found) or "")
    colouring = content["colourings"][0]
    meaning = {colour: int(number) for colour, number in colouring["legend"]}
    for frame in (0, 3):
        bonds = np.array(content["frames"][frame]["bonds"])
        counted = [meaning[colour] for colour in colouring["colours"][frame]]
        np.testing.assert_array_equal(counted, np.bincount(bonds.ravel(), minlength=13))


def test_damaged_conformations_are_named(molecule_run: Path, tmp_path: Path) -> None:
    run = read_run(molecule_run)
    (tmp_path / "topology.pdb").write_bytes((molecule_run / "topology.pdb").read_bytes())
    assert read_structures(tmp_path, run) is None
    content = (molecule_run / "samples.dcd").read_bytes()
    (tmp_path / "samples.dcd").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"samples\.dcd: .*bgdiff reweight"):
        read_structures(tmp_path, run)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "draw_figures", lambda *run: iter(()))
    monkeypatch.setattr(report, "structure_figures", lambda *run: iter(()))


@pytest.fixture
def another_viewer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The memory of which viewer is installed is emptied before and after."""
    viewer_bundle.find_viewer.cache_clear()
    yield
    viewer_bundle.find_viewer.cache_clear()


@pytest.mark.usefixtures("no_figures")
def test_only_the_reports_own_scripts_may_run(molecule_run: Path) -> None:
    pytest.importorskip("nglview")
    path = build_report(molecule_run)
    source = path.read_text(encoding="utf-8")
    page = outline(path)
    assert path.stat().st_size < 8e6
    assert not [address for address in page.addresses if not address.startswith("#")]
    assert "drawn from the 600 samples in proportion to their weights" in page.text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source)
    assert policy is not None
    allowed = dict(part.strip().split(" ", 1) for part in policy.group(1).replace("&#39;", "'").split(";"))
    assert allowed["default-src"] == "'none'"
    assert "connect-src" not in allowed
    (ours,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    (packed,) = re.findall(r'id="viewer-library">(.*?)</script>', source, re.DOTALL)
    library = gzip.decompress(base64.b64decode(packed, validate=True))
    bundle = viewer_bundle.find_viewer()
    assert bundle is not None
    assert all(text.encode() in library for text in bundle.scripts)
    hashes = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (library, ours.encode())]
    assert allowed["script-src"] == " ".join(f"'sha256-{one}'" for one in hashes)
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|import\(|eval\(", ours)
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import", style.group(1))


@pytest.mark.usefixtures("no_figures", "another_viewer")
def test_without_a_viewer_the_report_says_how_to_get_one(
    molecule_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer_bundle, "PACKAGE", "no-such-viewer")
    page = outline(build_report(molecule_run))
    assert "script" not in page.tags
    assert "For an interactive view here: pip install nglview" in page.text


@pytest.mark.usefixtures("another_viewer")
def test_viewer_is_found_among_the_files_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package, folder = tmp_path / "viewer-1.2.dist-info", tmp_path / "share" / "jupyter"
    static = folder / "labextensions" / "nglview-js-widgets" / "static"
    package.mkdir()
    static.mkdir(parents=True)
    marks = "StructureComponent:1,ColormakerRegistry:1,BallAndStickRepresentation:1"
    chunks = {
        "1.js": f"push([[1],{{5001:(t,e,n)=>{{var a=n(5002);x={{{marks}}};y='</script><!--'}}}}])",
        "2.js": "push([[2],{5002:e=>{}}])",
        "3.js": "push([[3],{5003:e=>{}}])",
    }
    for name, text in chunks.items():
        (static / name).write_text(text)
    (static / "1.js.LICENSE.txt").write_text("notice of the viewer")
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: viewer\nVersion: 1.2\n")
    names = [f"{static.relative_to(tmp_path).as_posix()}/{name},," for name in chunks]
    (package / "RECORD").write_text("\n".join([*names, "viewer-1.2.dist-info/METADATA,,"]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(viewer_bundle, "PACKAGE", "viewer")
    found = viewer_bundle.find_viewer()
    assert found is not None
    assert found.source == "viewer 1.2"
    assert found.licences == "notice of the viewer"
    assert [text[:9] for text in found.scripts] == ["push([[2]", "push([[1]"]
    assert found.scripts[1] == chunks["1.js"]
    (static / "1.js").write_text("nothing")
    viewer_bundle.find_viewer.cache_clear()
    assert viewer_bundle.find_viewer() is None
    assert "viewer 1.2 holds no viewer" in caplog.text
