"""Training: what it learns on data with known answers, and that stopping does not change it."""

import math
from pathlib import Path

import pytest
import torch

from bgdiff.config import RunConfig, make_config
from bgdiff.coordinates import LatentTarget, WhitenedCoordinates
from bgdiff.errors import CheckpointError, DataError
from bgdiff.io import load_tensors, save_tensors
from bgdiff.models import GaussianMixtureModel
from bgdiff.random import generator_for
from bgdiff.training import Trainer
from bgdiff.training_data import TrainingData, label


class MixtureTarget:
    """Two normal modes in two dimensions with an offset of the energy: log Z = 3 in x."""

    event_shape = (1, 2)
    log_z = 3.0

    def __init__(self, share: float) -> None:
        means = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
        self.model = GaussianMixtureModel(
            torch.tensor([share, 1 - share]), means, 0.25 * torch.eye(2).expand(2, 2, 2)
        )

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return -self.model.log_density(x[:, 0], torch.zeros(1, dtype=torch.float64)) - self.log_z

    def energy_and_force(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = self.energy(x)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), -gradient


def make_trainer(config: RunConfig, share: float = 0.7, forces: bool = True) -> Trainer:
    target = MixtureTarget(share)
    x = target.model.sample(8000, generator_for(0, "data"))[:, None]
    coordinates = WhitenedCoordinates.fit(x)
    latent = LatentTarget(target, coordinates)
    basin = (x[:, 0, 0] > 0).long()
    parts = [
        label(latent, x[rows], basin[rows], forces=forces) for rows in (slice(1000, None), slice(0, 1000))
    ]
    return Trainer(parts[0], parts[1], coordinates, config, latent)


def small(steps: int, *, seed: int = 5, **training: object) -> RunConfig:
    return make_config(
        "quick",
        seed=seed,
        overrides={
            "network": {"width": 64, "depth": 2},
            "ladder": {"n_training_rungs": 24, "sigma_min": 0.05},
            "training": {
                "steps": steps,
                "batch_size": 256,
                "evaluate_every": 100,
                "log_every": 20,
                **training,
            },
        },
    )


@pytest.mark.parametrize("forces", [True, False])
def test_learns_the_energy_of_each_mode(forces: bool) -> None:
    trainer = make_trainer(small(700), share=0.85, forces=forces)
    trainer.run()
    assert trainer.history[-1]["held_out_energy_sd"] < (0.12 if forces else 0.3)


def gap(trainer: Trainer) -> float:
    """How much too heavy the learned energy makes mode 1 against mode 0 at the lowest rung, in kT.

    log E[p̃_θ/p] over the frames of a mode is the log of the mass that p̃_θ gives it, relative to p.
    """
    data = trainer.data
    error = trainer.average.log_density(data.z, trainer.sigma[1:2]).detach().double() - data.log_density
    mass = [float(torch.logsumexp(error[data.basin == b], 0)) for b in (0, 1)]
    frames = [math.log(int((data.basin == b).sum())) for b in (0, 1)]
    own = frames[1] - frames[0] - math.log((1 - SHARE) / SHARE)  # chance left other shares in the data
    return mass[1] - mass[0] - (frames[1] - frames[0]) - own


SHARE = 0.9


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_classification_teaches_the_weights_of_the_modes(seed: int) -> None:
    trainer = make_trainer(small(1200, seed=seed, reach=3.0, objectives={"bi_level": 1.0}), share=SHARE)
    trainer.run()
    assert abs(gap(trainer)) < 0.15


def test_score_matching_alone_is_blind_to_the_weights_of_the_modes() -> None:
    """The reason for DiffCLF: what the gap becomes is left to chance."""
    gaps = []
    for seed in (0, 3):
        trainer = make_trainer(small(700, seed=seed, objectives={"bi_level": 0}), share=SHARE)
        trainer.run()
        gaps.append(abs(gap(trainer)))
    assert max(gaps) > 0.5


def test_normalisers_agree_with_quadrature() -> None:
    """Learned f_k against -log ∫ p̃_θ(z, σ_k) dz on a grid."""
    trainer = make_trainer(small(700))
    trainer.run()
    for k in (1, 8, 16, 24):
        sigma = trainer.sigma[k : k + 1]
        reach = 6 * math.sqrt(1 + float(sigma) ** 2)
        axis = torch.linspace(-reach, reach, 400, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        with torch.no_grad():
            log_density = trainer.average.log_density(grid, sigma).double()
        log_z = float(torch.logsumexp(log_density, 0)) + 2 * math.log(float(axis[1] - axis[0]))
        assert abs(float(trainer.normalisers[k]) + log_z) < 0.1
    assert float(trainer.normalisers[-1]) == 0.0


@pytest.mark.parametrize("log_z", [3.0, -200.0], ids=["near", "as far as a molecule's"])
def test_with_target_the_bottom_normaliser_is_log_z(log_z: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MixtureTarget, "log_z", log_z)
    trainer = make_trainer(small(900, with_target=True))
    trainer.run()
    # x and z differ by a Jacobian that the log density includes, so Z is the same in both
    assert abs(float(trainer.normalisers[0]) + log_z) < 0.1


def test_stopping_and_resuming_changes_no_bit(tmp_path: Path) -> None:
    config = small(60, evaluate_every=25, log_every=10)
    whole = make_trainer(config)
    whole.run()
    first = make_trainer(config)
    for _ in range(33):
        first.step()
    first.save(tmp_path / "checkpoint.safetensors")
    second = make_trainer(config)
    second.load(tmp_path / "checkpoint.safetensors")
    second.run()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name
    assert torch.equal(whole.normalisers, second.normalisers)
    strip = [[{k: v for k, v in r.items() if k != "elapsed"} for r in t.history] for t in (whole, second)]
    assert strip[0] == strip[1]


def test_interrupt_at_any_step_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    config = small(40, checkpoint_seconds=0)
    checkpoint = tmp_path / "checkpoint.safetensors"

    def stop(done: int, total: int, text: str = "") -> None:
        if done == 17:
            raise KeyboardInterrupt

    trainer = make_trainer(config)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(checkpoint, stop)
    again = make_trainer(config)
    again.load(checkpoint)
    assert again.step_count == 17
    again.run()
    whole = make_trainer(config)
    whole.run()
    assert torch.equal(whole.normalisers, again.normalisers)


def test_another_order_of_summation_is_no_other_data(tmp_path: Path) -> None:
    """Threads share out sums, and their number may change between interruption and resumption."""
    trainer = make_trainer(small(10))
    path = tmp_path / "checkpoint.safetensors"
    trainer.save(path)
    tensors, metadata = load_tensors(path)
    shape, total = metadata["fingerprint"]["data"]
    metadata["fingerprint"]["data"] = [shape, total * (1 + 1e-13)]
    save_tensors(path, tensors, metadata)
    trainer.load(path)
    metadata["fingerprint"]["data"] = [shape, total + 1e-3]
    save_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="data"):
        trainer.load(path)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(small(10))
    path = tmp_path / "checkpoint.safetensors"
    trainer.save(path)
    with pytest.raises(CheckpointError, match="other settings"):
        make_trainer(small(11)).load(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: corrupt or truncated"):
        trainer.load(path)
    with pytest.raises(CheckpointError, match="missing"):
        trainer.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(("weight", "said"), [(float("nan"), "is nan"), (1.5, r"mixed_score is \d\.?\de\+")])
def test_divergence_is_reported_not_trained_through(weight: float, said: str) -> None:
    trainer = make_trainer(small(50))
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.fill_(weight)
    with pytest.raises(DataError, match=f"diverged at step 1 .*{said}"):
        trainer.step()


def test_frames_without_a_finite_energy_are_refused() -> None:
    target = MixtureTarget(0.5)
    x = target.model.sample(100, generator_for(1))[:, None]
    coordinates = WhitenedCoordinates.fit(x)
    x[7] = torch.nan
    with pytest.raises(DataError, match="first: frame 7"):
        label(LatentTarget(target, coordinates), x, torch.zeros(100))


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    trainer = make_trainer(small(3))
    trainer.run()
    assert torch.equal(before, torch.get_rng_state())


def test_data_is_kept_as_given() -> None:
    data = TrainingData(torch.zeros(3, 2), torch.zeros(3), None, torch.zeros(3, dtype=torch.int64))
    assert data.to("cpu", torch.float32).score is None
