"""Runs from Python: what is there is not taken for what was asked for, and samples come back as they were."""

from pathlib import Path

import numpy as np
import pytest

from bgdiff.conformations import conformation_writer
from bgdiff.errors import CheckpointError, RunDirectoryError
from bgdiff.run import start_run
from bgdiff.run_ensemble import finished_run, load_ensemble
from bgdiff.systems import System, load_system

GENERATOR = np.random.default_rng(2)
SMALL = {"training": {"steps": 5}}


def write_samples(run: Path, system: System, x: np.ndarray) -> None:
    with conformation_writer(run, system.topology, len(x), x.shape[1:]) as append:
        append(x)


def test_another_run_is_not_shown(tmp_path: Path) -> None:
    out = start_run("double_well", tmp_path / "run", preset="quick", overrides=SMALL)
    for changes, words in (
        ({"seed": 3}, "seed was 0, not 3"),
        ({"overrides": {"training": {"steps": 6}}}, "training.steps was 5, not 6"),
        ({"data": load_system("double_well").data_path}, "its data are others"),
    ):
        with pytest.raises(RunDirectoryError, match=words):
            finished_run("double_well", out, **{"preset": "quick", "overrides": SMALL, **changes})
    with pytest.raises(RunDirectoryError, match="its system is double_well"):
        finished_run("dw4", out, preset="quick")
    with pytest.raises(RunDirectoryError, match="there are no corrected samples"):
        load_ensemble(out)


def test_samples_of_a_run_are_an_ensemble(tmp_path: Path) -> None:
    peptide = load_system("alanine_dipeptide_vacuum")
    out = start_run(peptide, tmp_path / "run", preset="quick", overrides=SMALL)
    x = peptide.structure + 0.003 * GENERATOR.standard_normal((6, *peptide.structure.shape))
    log_weight = GENERATOR.standard_normal(6)
    energy = GENERATOR.standard_normal(6)
    write_samples(out, peptide, x)
    np.savez(out / "proposal.npz", log_weight=log_weight, energy=energy, family=np.array([0, 0, 1, 2, 2, 2]))
    ensemble = load_ensemble(out)
    np.testing.assert_allclose(ensemble.x, x, atol=1e-6)
    np.testing.assert_array_equal(ensemble.log_weight, log_weight)
    np.testing.assert_array_equal(ensemble.energy, energy)
    assert ensemble.family is not None
    assert ensemble.family.tolist() == [0, 0, 1, 2, 2, 2]
    write_samples(out, peptide, x[:5])
    with pytest.raises(CheckpointError, match="5 conformations for 6 weights"):
        load_ensemble(out)
    (out / "samples.dcd").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_ensemble(out)


def test_samples_of_a_toy_density(tmp_path: Path) -> None:
    well = load_system("double_well")
    out = start_run(well, tmp_path / "run", preset="quick", overrides=SMALL)
    x = GENERATOR.standard_normal((4, *well.target.event_shape))
    write_samples(out, well, x)
    np.savez(out / "proposal.npz", log_weight=np.zeros(4), energy=np.zeros(4))
    ensemble = load_ensemble(out)
    np.testing.assert_array_equal(ensemble.x, x)
    assert ensemble.family is None
    assert ensemble.ess == 1.0
