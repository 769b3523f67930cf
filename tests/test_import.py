"""A user's own trajectories: what is put right, what is dropped by name, what is refused with a remedy."""

import json
import shutil
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

from bgdiff.data.importing import import_data
from bgdiff.data.importing_options import ImportOptions
from bgdiff.errors import BgdiffError, ConfigError, DataError
from bgdiff.systems import load_system

N = 900


@pytest.fixture(scope="module")
def shipped():
    return load_system("alanine_dipeptide_vacuum")


@pytest.fixture(scope="module")
def x(shipped):
    """900 frames ``(900, 22, 3)``, nm, of one simulation."""
    return shipped.load_data().x[: N + 400][400:].numpy()


@pytest.fixture
def system(shipped, tmp_path):
    """The same molecule in a folder of the user's, without data."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("system.xml", "topology.pdb"):
        shutil.copy(shipped.path / name, folder)
    text = (shipped.path / "system.yaml").read_text().replace(f"name: {shipped.name}", "name: mine")
    lines = [line for line in text.splitlines() if not line.startswith(("data:", "reference:"))]
    head, _, _ = "\n".join(lines).partition("\ntransformations:")
    (folder / "system.yaml").write_text(head + "\ndata: {file: data/md.dcd, provenance: data/about.json}\n")
    return load_system(folder)


def save(shipped, x, path, topology=None, box=None, spacing=0.5):
    trajectory = mdtraj.Trajectory(
        np.asarray(x, np.float32), topology or shipped.topology, time=spacing * np.arange(len(x))
    )
    if box is not None:
        trajectory.unitcell_vectors = np.tile(np.asarray(box, np.float32), (len(x), 1, 1))
    trajectory.save(str(path))
    return path


def centred(x):
    return x - x.mean(axis=1, keepdims=True)


def solvated(shipped, x, order):
    """The molecule with its atoms in another order, among two waters and an ion, cut by a periodic box."""
    old = list(shipped.topology.atoms)
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    element = mdtraj.element

    def water():
        residue = topology.add_residue("HOH", chain)
        for name, kind in (("O", element.oxygen), ("H1", element.hydrogen), ("H2", element.hydrogen)):
            topology.add_atom(name, kind, residue)

    water()
    residues = {}
    for index in order:
        residue = old[index].residue
        if residue not in residues:
            residues[residue] = topology.add_residue(residue.name, chain, resSeq=residue.resSeq)
        topology.add_atom(old[index].name, old[index].element, residues[residue])
    water()
    topology.add_atom("NA", element.sodium, topology.add_residue("NA", chain))
    generator = np.random.default_rng(2)
    solvent = [generator.uniform(0, 2, size=(len(x), count, 3)) for count in (3, 4)]
    everything = np.concatenate(
        [solvent[0], x[:, order] + generator.uniform(0, 2, (len(x), 1, 3)), solvent[1]], 1
    )
    return topology, everything % 2.0, 2.0 * np.eye(3)


def shuffled_within_residues(shipped, seed=1):
    generator = np.random.default_rng(seed)
    residues = [[atom.index for atom in residue.atoms] for residue in shipped.topology.residues]
    return np.concatenate([generator.permutation(atoms) for atoms in residues])


def test_imported_trajectories_become_the_systems_data(system, shipped, x, tmp_path):
    first, second = tmp_path / "first.xtc", tmp_path / "second.dcd"
    save(shipped, x[:500] + 2.0, first)
    save(shipped, x[500:], second)
    found = import_data(system, [first, second], ImportOptions(burn_in=20))
    assert found.path == system.path / "data" / "md.dcd"
    dataset = load_system(system.path).load_data()
    assert torch.bincount(dataset.chain).tolist() == [480, 380]
    assert dataset.temperature is None
    np.testing.assert_allclose(dataset.x[:480], centred(x[20:500]), atol=1.1e-3)  # rounded in XTC
    np.testing.assert_allclose(dataset.x[480:], centred(x[520:]), atol=2e-6)
    record = json.loads((system.path / "data" / "about.json").read_text())
    assert record["file"] == "md.dcd"
    assert record["chain_lengths"] == [480, 380]
    assert record["ensemble_digest"] == system.ensemble_digest
    assert [source["spacing_ps"] for source in record["sources"]] == [0.5, None]
    assert [source["named"] for source in record["sources"]] == [False, False]
    assert record["sources"][0]["memory"]["inefficiency"]["energy"] >= 1
    assert record["sources"][1]["stereocentres"] == ["ALA2-CA"]
    assert record["sources"][1]["cis"] == {"ACE1-ALA2": 0, "ALA2-NME3": 0}
    assert abs(found.agreement.ratio - 1) < 4 * found.agreement.ratio_error + 0.03
    with pytest.raises(ConfigError, match=r"about\.json: exists already|md\.dcd: exists already"):
        import_data(system, [second], out=found.path)


def test_time_as_burn_in_and_automatic_thinning(system, shipped, x, tmp_path):
    timed = save(shipped, x, tmp_path / "timed.xtc")
    found = import_data(system, [timed], ImportOptions(burn_in="10.2ps"), out=tmp_path / "a.dcd")
    assert found.sources[0].burn_in == 21  # frames at 0, 0.5, ... 10 ps are left out
    untimed = save(shipped, x, tmp_path / "untimed.dcd")
    with pytest.raises(ConfigError, match=r"untimed\.dcd: does not say when .* --spacing-ps"):
        import_data(system, [untimed], ImportOptions(burn_in="10ps"))
    options = ImportOptions(burn_in="0.01ns", spacing_ps=0.25)
    assert import_data(system, [untimed], options, out=tmp_path / "b.dcd").sources[0].burn_in == 40
    hot = np.concatenate([x[:60] + 0.006 * np.random.default_rng(0).normal(size=(60, 22, 3)), x])
    drifting = save(shipped, hot, tmp_path / "drifting.dcd")
    options = ImportOptions(burn_in="auto", stride="auto")
    found = import_data(system, [drifting, untimed], options, out=tmp_path / "c.dcd")
    source = found.sources[0]
    assert source.burn_in >= 48  # candidates are 24 frames apart
    assert source.stride == source.memory.stride
    assert source.kept == -(-(len(hot) - source.burn_in) // source.stride)


def test_a_solvated_wrapped_reordered_trajectory_is_put_right(system, shipped, x, tmp_path, capfd):
    order = shuffled_within_residues(shipped)
    topology, everything, box = solvated(shipped, x, order)
    top = save(shipped, everything[:1], tmp_path / "top.pdb", topology)
    trajectory = save(shipped, everything, tmp_path / "wrapped.dcd", topology, box)
    place = int(np.flatnonzero(order != np.arange(22))[0])
    message = rf"top\.pdb: atom {3 + place} is .*, but atom {place} of the system is .*: add --reorder"
    with pytest.raises(DataError, match=message):
        import_data(system, [trajectory], ImportOptions(top=top))
    capfd.readouterr()
    found = import_data(system, [trajectory], ImportOptions(top=top, reorder=True))
    assert capfd.readouterr().out == ""  # mdtraj's readers of DCD announce every file
    source = found.sources[0]
    assert source.left_out == {"water": 6, "ions": 1}
    assert source.moved == int((order != np.arange(22)).sum())
    assert source.whole > 100
    assert source.atoms == 29
    np.testing.assert_allclose(system.load_data().x, centred(x), atol=1e-5)


def test_which_atoms_are_the_system(system, shipped, x, tmp_path):
    topology, everything, box = solvated(shipped, x[:5], np.arange(22))
    top = save(shipped, everything[:1], tmp_path / "top.pdb", topology)
    trajectory = save(shipped, everything, tmp_path / "all.dcd", topology, box)
    for options, message in (
        ({}, r"has 29 atoms, but the system has 22; name the file's atoms with --top"),
        (
            {"top": top, "atoms": "resname ALA"},
            r"--atoms 'resname ALA' chooses 10 of 29 atoms \(ALA.\)",
        ),
        ({"top": top, "atoms": "nonsense here"}, "mdtraj does not understand it"),
        ({"atoms": "protein"}, r"names no atoms, which --atoms needs; add --top"),
        ({"reorder": True}, r"names no atoms, which --reorder needs; add --top"),
    ):
        with pytest.raises(BgdiffError, match=message):
            import_data(system, [trajectory], ImportOptions(**options))
    few = save(shipped, x[:5, :21], tmp_path / "few.pdb", shipped.topology.subset(range(21)))
    with pytest.raises(DataError, match=r"has 21 atoms, but the system has 22; .* Not in the file: NME3-H"):
        import_data(system, [few])
    text = save(shipped, x[:1], tmp_path / "strange.gro").read_text()
    (tmp_path / "strange.gro").write_text(text.replace("    O ", "    S "))
    whole = save(shipped, x[:5], tmp_path / "whole.xtc")
    with pytest.raises(DataError, match=r"atom 5 is ACE1-S \(S\), but .*: C6 H12 N2 S2 in the file"):
        import_data(system, [whole], ImportOptions(top=tmp_path / "strange.gro"))
    with pytest.raises(DataError, match=r"has 22 atoms, but --top .*top\.pdb names 29"):
        import_data(system, [whole], ImportOptions(top=top))


def test_names_of_another_convention_are_accepted_and_told(system, shipped, x, tmp_path):
    text = save(shipped, x[:1], tmp_path / "other.gro").read_text()
    (tmp_path / "other.gro").write_text(text.replace("   CB", "   C9").replace("   H1", "  1HH", 1))
    trajectory = save(shipped, x, tmp_path / "a.xtc")
    found = import_data(system, [trajectory], ImportOptions(top=tmp_path / "other.gro"))
    assert found.sources[0].renamed == (("ACE1-1HH", "ACE1-H1"), ("ALA2-C9", "ALA2-CB"))
    assert any("2 atoms have other names than in the system, such as ACE1-1HH" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("name", "factor", "said", "remedy"),
    [("a.xtc", 10.0, "nm", "angstrom"), ("a.dcd", 0.1, "angstrom", "nm"), ("a.npy", 10.0, "nm", "angstrom")],
)
def test_nanometres_and_angstroms_are_told_apart(system, shipped, x, tmp_path, name, factor, said, remedy):
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, x * factor)
    else:
        save(shipped, x * factor, path)
    with pytest.raises(DataError, match=rf"read as {said}, but are {remedy}\. Add --units {remedy}"):
        import_data(system, [path])
    import_data(system, [path], ImportOptions(units=remedy))
    np.testing.assert_allclose(system.load_data().x, centred(x), atol=1e-3)


def test_a_molecule_cut_by_a_box_that_the_file_lacks(system, shipped, x, tmp_path):
    cut = (x + np.random.default_rng(1).uniform(0, 2, (N, 1, 3))) % 2.0
    path = save(shipped, cut, tmp_path / "cut.dcd")
    with pytest.raises(DataError, match=r"a broken bond \(.* to .* nm, usually .*\), frames .*gmx trjconv"):
        import_data(system, [path])


def test_atoms_in_another_order_without_names(system, shipped, x, tmp_path):
    path = save(shipped, x[:, ::-1], tmp_path / "backwards.dcd")
    with pytest.raises(DataError, match=r"of 21 bonds are much too long in most frames, .*--top.*--reorder"):
        import_data(system, [path])


def test_faulty_frames_are_named_dropped_and_counted(system, shipped, x, tmp_path):
    bad = x.copy()
    bad[100, 3] = np.nan
    bad[200] *= [1, 1, -1]
    bad[300, 21] += 1.0
    bad[400] = 0.9 * x[400]
    found = import_data(system, [save(shipped, bad, tmp_path / "a.dcd")])
    dropped = dict(found.sources[0].findings.dropped)
    assert list(dropped.values()) == [[100], [300], [200], [400]]
    faults = list(dropped)
    assert faults[0].startswith("coordinates that are not finite")
    assert faults[1].startswith("a broken bond (NME3-C to NME3-H")
    assert faults[2] == "the wrong chirality at ALA2-CA"
    assert faults[3].startswith("an energy far from the others'")
    assert len(system.load_data()) == N - 4
    assert sum("faulty frames were dropped" in warning for warning in found.warnings) == 4


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x * [1, 1, -1], r"900 with the wrong chirality at ALA2-CA.*another stereoisomer"),
        (
            lambda x: np.where(np.arange(N)[:, None, None] < 20, np.nan, x),
            r"20 with coordinates that are not",
        ),
        (lambda x: np.where(np.arange(N)[:, None, None] < 20, 0.9 * x, x), r"20 with an .*energy.*--burn-in"),
    ],
)
def test_many_faulty_frames_are_refused(system, shipped, x, tmp_path, spoil, message):
    with pytest.raises(DataError, match=message):
        import_data(system, [save(shipped, spoil(x), tmp_path / "a.dcd")])
    assert not system.data_path.exists()


def test_constraints_are_noticed_and_the_way_out_is_named(system, shipped, x, tmp_path):
    stiff = x.copy()
    bond = next((a.index, b.index) for a, b in shipped.topology.bonds if "H" in (a.name[0], b.name[0]))
    heavy, hydrogen = sorted(bond, key=lambda index: shipped.topology.atom(index).element.symbol == "H")
    arm = stiff[:, hydrogen] - stiff[:, heavy]
    stiff[:, hydrogen] = stiff[:, heavy] + 0.109 * arm / np.linalg.norm(arm, axis=1, keepdims=True)
    path = save(shipped, stiff, tmp_path / "a.xtc")
    with pytest.raises(DataError, match=r"1 of 21 bonds do not vary, .*bgdiff data generate .*mine --start"):
        import_data(system, [path])


def test_data_of_another_ensemble_are_told(system, shipped, x, tmp_path):
    path = save(shipped, x, tmp_path / "a.dcd")
    found = import_data(system, [path], ImportOptions(temperature=400.0))
    assert any("look like" in warning and "--temperature" in warning for warning in found.warnings)
    assert json.loads((system.path / "data" / "about.json").read_text())["temperature"] == 400.0
    assert system.load_data().temperature.unique().tolist() == [400.0]
    solvent = load_system("alanine_dipeptide_obc1").load_data().x[:N].numpy()
    found = import_data(system, [save(shipped, solvent, tmp_path / "b.dcd")], out=tmp_path / "c.dcd")
    assert any("not drawn with this force field" in warning for warning in found.warnings)


def test_files_that_are_no_trajectories(system, shipped, x, tmp_path):
    (tmp_path / "folder.dcd").mkdir()
    (tmp_path / "empty.xtc").touch()
    cases: list[tuple[Path, str]] = [
        (tmp_path / "folder.dcd", "is a directory; name the files in it"),
        (tmp_path / "empty.xtc", "is empty"),
        (tmp_path / "nowhere.xtc", "there is no such file"),
    ]
    for suffix in (".dcd", ".xtc", ".pdb", ".npz", ".xyz"):
        path = tmp_path / f"cut{suffix}"
        if suffix == ".npz":
            np.savez(path, x=x[:50])
        else:
            save(shipped, x[:50], path)
        path.write_bytes(path.read_bytes()[: int(0.603 * path.stat().st_size)])
        cases.append(
            (
                path,
                rf"cut\{suffix}: (ends early: it holds \d+|mdtraj cannot read|is damaged|is not)",
            )
        )
    for path, message in cases:
        with pytest.raises(DataError, match=message):
            import_data(system, [path])
    np.savez(tmp_path / "none.npz", x=x[:0])
    with pytest.raises(DataError, match="holds no frames"):
        import_data(system, [tmp_path / "none.npz"])
    good = save(shipped, x[:50], tmp_path / "good.dcd")
    with pytest.raises(DataError, match="no topology can be read from it"):
        import_data(system, [good], ImportOptions(top=good))
    with pytest.raises(DataError, match="no trajectory was named"):
        import_data(system, [])


def test_too_little_is_left(system, shipped, x, tmp_path):
    path = save(shipped, x, tmp_path / "a.dcd")
    with pytest.raises(
        DataError, match=r"90 frames are left \(a\.dcd: 90 of 900 \(.* stride 10\)\).* needs 600"
    ):
        import_data(system, [path], ImportOptions(stride=10))
    with pytest.raises(DataError, match=r"no frames are left: it holds 900, and --burn-in 5000"):
        import_data(system, [path], ImportOptions(burn_in=5000))
    shutil.copy(path, tmp_path / "b.dcd")
    with pytest.raises(DataError, match=r"b\.dcd: is the same file as .*a\.dcd"):
        import_data(system, [path, tmp_path / "b.dcd"])
    for wrong in ({"stride": 0}, {"stride": "half"}, {"burn_in": -1}, {"burn_in": "10 apples"}):
        with pytest.raises(ConfigError, match="--stride|--burn-in"):
            ImportOptions(**wrong)


def test_arrays_of_toy_densities(tmp_path):
    well = load_system("double_well")
    data = well.load_data()
    np.savez(tmp_path / "mine.npz", x=data.x[:4000].numpy())
    found = import_data(well, [tmp_path / "mine.npz"], ImportOptions(burn_in=100), out=tmp_path / "out.npz")
    assert torch.equal(well.load_data(found.path).x, data.x[100:4000].float().double())
    with pytest.raises(ConfigError, match="reduced units"):
        import_data(well, [tmp_path / "mine.npz"], ImportOptions(temperature=2.0), out=tmp_path / "b.npz")


def test_the_command(call, system, shipped, x, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(shipped, x, tmp_path / "a.xtc")
    failed = call("data", "import", "mine/", "a.xtc", "--stride", "300")
    assert failed.code == 2
    assert "3 frames are left" in failed.said
    done = call("data", "import", "mine/", "a.xtc", "--burn-in", "5ps")
    assert done.code == 0
    assert "wrote mine/data/md.dcd: 890 frames" in done.out
    assert "next: bgdiff run mine" in done.out
    assert "chirality as in the topology file at ALA2-CA" in done.out
    elsewhere = call("data", "import", "mine/", "a.xtc", "--out", "other.dcd")
    assert "next: bgdiff run mine --data other.dcd" in elsewhere.out
