"""The terms of the loss: their sum, what they keep from step to step, checkpoints of earlier versions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import make_trainer, small
from torch import Tensor, nn

from bgdiff.io import load_tensors, save_tensors
from bgdiff.objectives import OBJECTIVES, Entry, Objective, Options, Problem, Setup
from bgdiff.training import Trainer


class HabitOptions(Options):
    pace: float = 0.5


class Habit(Objective):
    """Pulls scores of the model to a learned number that is noisy, and remembers what it has seen."""

    name = "habit"
    options_class = HabitOptions
    options: HabitOptions

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        super().__init__(setup, options)
        self.goal = nn.Parameter(torch.randn(()))
        start = torch.rand((), generator=setup.generator, dtype=torch.float64)
        self.register_buffer("memory", start)

    memory: Tensor

    def loss(self, problem: Problem) -> Tensor:
        noise = torch.randn((), generator=problem.generator)
        if self.training:
            self.memory += self.options.pace * (float(problem.points.mean()) - float(self.memory))
        distance: Tensor = problem.own()[1].mean() - self.goal - noise - self.memory.float()
        return distance**2


@pytest.fixture
def habit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "habit", Entry(f"{__name__}:Habit", trains_energy=False))


def records(trainer: Trainer) -> list[dict[str, Any]]:
    return [{key: value for key, value in r.items() if key != "elapsed"} for r in trainer.history]


def assert_same_training(first: Trainer, second: Trainer) -> None:
    for name, value in first.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name
    assert torch.equal(first.normalisers, second.normalisers)
    assert records(first) == records(second)


def test_the_first_two_objectives_train_as_they_always_did() -> None:
    """Numbers of the version in which score matching and DiffCLF were the only two terms."""
    trainer = make_trainer(small(40, log_every=20, evaluate_every=20, objectives={"bi_level": 0.1}))
    trainer.run()
    last = trainer.history[-1]
    expected = {
        "loss": 0.2740068463981152,
        "mixed_score": 0.21741072461009026,
        "bi_level": 0.565961217880249,
        "grad_norm": 0.09588750284165144,
        "held_out_mixed_score": 0.23050585389137268,
        "held_out_bi_level": 0.5687081813812256,
        "held_out_energy_sd": 0.7625935322903876,
    }
    assert {name: last[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    normalisers = [0.034798625856637955, 0.011107535101473331, -0.0019144417019560933]
    assert trainer.normalisers[[0, 12, 23]].tolist() == pytest.approx(normalisers, rel=1e-3, abs=1e-5)


@pytest.mark.usefixtures("habit")
def test_own_parameters_and_memory_are_trained_stored_and_resumed(tmp_path: Path) -> None:
    config = small(
        40,
        evaluate_every=15,
        log_every=10,
        objectives={"habit": 0.3},
        objective_options={"habit": {"pace": 0.2}},
    )
    whole = make_trainer(config)
    begun = {name: value.clone() for name, value in whole.objectives["habit"].state_dict().items()}
    whole.run()
    ended = whole.objectives["habit"].state_dict()
    assert set(ended) == {"goal", "memory"}
    assert all(not torch.equal(begun[name], ended[name]) for name in ended)
    assert ended["memory"].dtype == torch.float64
    first = make_trainer(config)
    for _ in range(23):
        first.step()
    first.save(tmp_path / "checkpoint.safetensors")
    second = make_trainer(config)
    second.load(tmp_path / "checkpoint.safetensors")
    second.run()
    assert_same_training(whole, second)
    assert all(
        torch.equal(ended[name], value) for name, value in second.objectives["habit"].state_dict().items()
    )
    parts = {"mixed_score": 1.0, "bi_level": 0.03, "habit": 0.3}
    for record in whole.history:
        assert record["loss"] == pytest.approx(sum(w * record[name] for name, w in parts.items()))


@pytest.mark.usefixtures("habit")
def test_what_an_objective_starts_from_depends_on_the_run_s_seed_alone() -> None:
    starts = []
    for global_seed, seed in ((1, 5), (2, 5), (2, 6)):
        torch.manual_seed(global_seed)
        term = make_trainer(small(3, seed=seed, objectives={"habit": 1.0})).objectives["habit"]
        starts.append(torch.stack([value.double() for value in term.state_dict().values()]))
    assert torch.equal(starts[0], starts[1])
    assert (starts[0] != starts[2]).all()


@pytest.mark.usefixtures("habit")
def test_looking_at_held_out_losses_changes_nothing() -> None:
    trainer = make_trainer(small(10, objectives={"habit": 0.3}))
    for _ in range(3):
        trainer.step()
    before = {name: value.clone() for name, value in trainer.objectives["habit"].state_dict().items()}
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first == second
    assert set(first) > {"held_out_habit", "held_out_bi_level", "held_out_mixed_score"}
    assert all(
        torch.equal(before[name], value) for name, value in trainer.objectives["habit"].state_dict().items()
    )


@pytest.mark.parametrize("objectives", [{"bi_level": 0.1}, {"bi_level": 0}], ids=["both", "score alone"])
def test_checkpoints_of_format_5_are_taken_up(objectives: dict[str, float], tmp_path: Path) -> None:
    """A checkpoint put into the form that had the two fields and the fixed columns."""
    config = small(30, evaluate_every=10, log_every=10, objectives=objectives)
    whole = make_trainer(config)
    for _ in range(14):
        whole.step()
    path = tmp_path / "checkpoint.safetensors"
    whole.save(path)
    tensors, metadata = load_tensors(path)
    fingerprint, both = metadata["fingerprint"], objectives["bi_level"] > 0
    training = fingerprint["training"]
    del training["objectives"], training["objective_options"]
    training |= {"classification": "bi_level" if both else None, "classification_weight": 0.1}
    former = {"mixed_score": "score", "bi_level": "diffclf"}
    former |= {f"held_out_{new}": f"held_out_{old}" for new, old in former.items()}
    nothing = {} if both else {"diffclf": 0.0}
    metadata["history"] = [{former.get(k, k): v for k, v in r.items()} | nothing for r in metadata["history"]]
    metadata["since_log"] = [[*row[:-1], *([] if both else [0.0]), row[-1]] for row in metadata["since_log"]]
    save_tensors(path, tensors, {**metadata, "fingerprint": {**fingerprint, "format": 5}})
    whole.run()
    again = make_trainer(config)
    again.load(path)
    again.run()
    assert_same_training(whole, again)
