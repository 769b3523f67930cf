"""Data of another temperature and from a user's structures: made, recorded, labelled for what they are."""

import json
from types import SimpleNamespace

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from checks import assert_mean, seeded
from molecules import twist_folder
from openmm import unit

from bgdiff.config import make_config
from bgdiff.coordinates import LatentTarget
from bgdiff.data.generate import generate_data
from bgdiff.data.inspection_ensemble import judge_ensemble
from bgdiff.errors import ConfigError, DataError
from bgdiff.outputs import _held_out_rows
from bgdiff.preparation import prepare
from bgdiff.sample_check import _virial_of
from bgdiff.systems import load_system
from bgdiff.targets.openmm import GAS_CONSTANT

HOT = 600.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four atoms in a chain, with data of 600 K where the system says its data are."""
    folder = twist_folder(tmp_path_factory.mktemp("systems") / "twist")
    text = (
        (folder / "system.yaml")
        .read_text()
        .replace("length_ns: 0.02, spacing_ps: 0.05", "length_ns: 0.03, spacing_ps: 0.15", 1)
    )
    (folder / "system.yaml").write_text(text + "data: {file: data/md.dcd, provenance: data/about.json}\n")
    out = generate_data(load_system(folder), seed=4, processes=1, temperature=HOT)
    assert out == folder / "data" / "md.dcd"
    return folder


@pytest.fixture(scope="module")
def system(folder):
    return load_system(folder)


@pytest.fixture(scope="module")
def mixed(system, tmp_path_factory):
    """Data of 300 and of 600 K, 1200 frames each."""
    usual = generate_data(system, tmp_path_factory.mktemp("data") / "usual.dcd", seed=5, processes=1)
    return system.load_data([usual, system.data_path])


def kilojoules(system, x):
    """Potential energies ``(n,)`` by OpenMM."""
    context = openmm.Context(
        system.openmm_system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    values = []
    for row in x:
        context.setPositions(row.numpy())
        energy = context.getState(energy=True).getPotentialEnergy()
        values.append(energy.value_in_unit(unit.kilojoule_per_mole))
    return torch.tensor(values, dtype=torch.float64)


def test_data_of_another_temperature_are_made_and_recorded(system):
    record = json.loads((system.path / "data" / "about.json").read_text())
    assert record["temperature"] == HOT
    assert record["ensemble_digest"] == system.at_temperature(HOT).ensemble_digest
    assert record["command"] == "bgdiff data generate twist --seed 4 --temperature 600"
    data = system.load_data()
    assert data.temperature.tolist() == [HOT] * len(data)
    bond = (data.x[:, 0] - data.x[:, 1]).norm(dim=1).reshape(6, -1)
    assert_mean(bond.var(1), GAS_CONSTANT * HOT / 1e5)
    found = judge_ensemble(system.at_temperature(HOT), data.x.numpy(), data.chain.numpy())
    assert abs(found.virial.z_score) < 4
    wrong = judge_ensemble(system, data.x.numpy(), data.chain.numpy())
    assert wrong.ratio == pytest.approx(2, abs=0.3)


def test_frames_keep_their_temperature_where_data_are_split(system, mixed):
    assert mixed.temperature.tolist() == [300.0] * 1200 + [HOT] * 1200
    kept, held_out = mixed.split(0.1)
    for part in (kept, held_out):
        hot = part.chain >= 6
        assert torch.equal(part.temperature == HOT, hot)
    assert mixed.split(0.1)[1].temperature.unique().tolist() == [300.0, HOT]


def test_scores_are_of_the_density_the_frames_were_drawn_from(system, mixed):
    """By finite differences of -U/kT' + log|det dx/dz|, with energies from OpenMM."""
    prepared = prepare(system, mixed, make_config("quick"))
    assert prepared.target_evaluations == 2400 + 1200
    coordinates = prepared.coordinates
    rows = torch.tensor([3, 500, 1500, 2000])
    temperature = mixed.split(0.1)[0].temperature[rows]
    assert temperature.unique().tolist() == [300.0, HOT]
    z, step = prepared.training.z[rows], 1e-4
    for axis in range(z.shape[1]):
        sides = []
        for sign in (1, -1):
            moved = z.clone()
            moved[:, axis] += sign * step
            x, log_det = coordinates.to_x(moved)
            sides.append(log_det - kilojoules(system, x) / (GAS_CONSTANT * temperature))
        slope = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close(prepared.training.score[rows, axis], slope, rtol=1e-4, atol=1e-3)
    held_out = prepared.held_out  # energies, though, are the system's own
    own = LatentTarget(system.target, coordinates).log_density(held_out.z)
    torch.testing.assert_close(held_out.log_density, own, rtol=1e-9, atol=1e-9)


def test_each_frames_own_score_makes_the_score_of_a_mixture():
    """E[score of the density a point was drawn from | noised point] is the noised mixture's score."""
    generator, n, sigma = seeded(3), 400_000, 0.7
    spread = torch.where(torch.rand(n, generator=generator) < 0.4, 1.0, 2.0).double()
    clean = spread * torch.randn(n, generator=generator, dtype=torch.float64)
    z = clean + sigma * torch.randn(n, generator=generator, dtype=torch.float64)
    label = -clean / spread**2
    variances, shares = torch.tensor([1.0, 4.0]).double() + sigma**2, torch.tensor([0.4, 0.6]).double()
    weight = shares * torch.exp(-(z[:, None] ** 2) / (2 * variances)) / variances.sqrt()
    score = -(weight / weight.sum(1, keepdim=True) / variances).sum(1) * z
    for test in (z, z**3, torch.sin(2 * z), torch.tanh(z)):
        assert_mean((label - score) * test, 0.0)


def test_settings_that_do_not_go_with_other_temperatures(system, mixed, folder, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.with_target: .* drawn at 300 K, 600 K"):
        prepare(system, mixed, make_config("quick", overrides={"training": {"with_target": True}}))
    text = (folder / "system.yaml").read_text()
    other = tmp_path / "other"
    other.mkdir()
    for name in ("system.xml", "topology.pdb"):
        (other / name).write_bytes((folder / name).read_bytes())
    (other / "data").mkdir()
    (other / "data" / "md.dcd").write_bytes((folder / "data" / "md.dcd").read_bytes())
    said = text.replace(
        "file: data/md.dcd, provenance: data/about.json", "file: data/md.dcd, temperature: 450"
    )
    (other / "system.yaml").write_text(said)
    assert load_system(other).load_data().temperature.unique().tolist() == [450.0]
    record = json.loads((folder / "data" / "about.json").read_text())
    (other / "data" / "md.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"drawn at 600 K according to its provenance, but .* says 450 K"):
        load_system(other).load_data()
    for name in ("md.dcd", "md.json"):
        (other / "data" / name).unlink()
    with pytest.raises(ConfigError, match=r"says data\.temperature: 450 K, but 500 K is asked for"):
        generate_data(load_system(other), processes=1, temperature=500.0)
    with pytest.raises(ConfigError, match="reduced units"):
        generate_data(load_system("double_well"), tmp_path / "a.npz", temperature=300.0)


def test_simulations_start_from_a_users_structures(system, mixed, tmp_path):
    phi = system.observables(mixed.x)["phi"]
    chosen = [int(np.argmax(np.abs(phi))), int(np.argmin(np.abs(phi)))]
    first, second = tmp_path / "one.pdb", tmp_path / "two.xtc"
    x = mixed.x.numpy().astype(np.float32)
    mdtraj.Trajectory(x[chosen[:1]], system.topology).save(str(first))
    mdtraj.Trajectory(x[[chosen[1], chosen[0]]] + 3, system.topology).save(str(second))

    def generate(name, **options):
        return generate_data(
            system, tmp_path / name, seed=2, processes=1, starts=[first, second], top=first, **options
        )

    def stop(done, total, text=""):
        if done == 1:
            raise KeyboardInterrupt

    whole = generate("whole.dcd")
    with pytest.raises(KeyboardInterrupt):
        generate("cut.dcd", progress=stop)
    with pytest.raises(ConfigError, match=r"other settings .*starts"):
        generate_data(system, tmp_path / "cut.dcd", seed=2, processes=1, starts=[first])
    data = system.load_data(whole)
    assert torch.equal(system.load_data(generate("cut.dcd")).x, data.x)
    record = json.loads(whole.with_suffix(".json").read_text())
    assert [(file["file"], file["frames"]) for file in record["start_files"]] == [
        ("one.pdb", 1),
        ("two.xtc", 2),
    ]
    assert len(record["chain_lengths"]) == 9  # three starts, three chains each
    assert record["command"].endswith("--top one.pdb --start one.pdb --start two.xtc")
    begun = np.abs(system.observables(data.x[::200])["phi"]).reshape(3, 3) > np.pi / 2
    assert begun.tolist() == [[True] * 3, [False] * 3, [True] * 3]


def test_starts_that_cannot_be_used(system, mixed, tmp_path):
    x = mixed.x[:2].numpy().astype(np.float32)
    x[1, 2] = np.nan
    path = tmp_path / "bad.dcd"
    mdtraj.Trajectory(x, system.topology).save(str(path))
    with pytest.raises(DataError, match=r"bad\.dcd: frame 1 has coordinates that are not finite"):
        generate_data(system, tmp_path / "a.dcd", processes=1, starts=[path])
    for options, message in (
        ({"method": "parallel-tempering", "starts": [path]}, "--start: is for molecular dynamics"),
        ({"top": path}, "--top: names the atoms of --start files"),
        ({"method": "parallel-tempering", "temperature": 1000.0}, "t_max: must be above 1000 K"),
    ):
        with pytest.raises(ConfigError, match=message):
            generate_data(system, tmp_path / "a.dcd", processes=1, **options)
    peptide = load_system("alanine_dipeptide_vacuum")
    mirror = peptide.load_data().x[:1].numpy() * [1, 1, -1]
    mdtraj.Trajectory(mirror.astype(np.float32), peptide.topology).save(str(tmp_path / "mirror.pdb"))
    with pytest.raises(DataError, match=r"mirror\.pdb: frame 0 has the wrong chirality at ALA2-CA"):
        generate_data(peptide, tmp_path / "a.dcd", processes=1, starts=[tmp_path / "mirror.pdb"])


def test_hot_frames_are_no_measure_of_samples_but_of_themselves(system, mixed):
    """Only frames of the system's own temperature are walked up; the virial of the others is scaled."""
    run = SimpleNamespace(system=system, data=mixed, config=make_config("quick"))
    rows = _held_out_rows(run)
    assert len(rows) == 120
    assert mixed.temperature[rows].unique().tolist() == [300.0]
    run.data = system.load_data()
    assert len(_held_out_rows(run)) == 0
    everything = torch.arange(len(mixed))
    assert abs(_virial_of(system, mixed, everything).z_score) < 4
    assert mixed.frames_at(HOT).sum() == 1200
