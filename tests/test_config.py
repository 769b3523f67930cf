"""Settings: presets are valid, bad values are named."""

import pytest

from bgdiff.config import PRESETS, make_config, parse_config
from bgdiff.errors import ConfigError


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_valid_and_survives_a_round_trip(preset: str) -> None:
    config = make_config(preset, seed=3)
    assert config.preset == preset
    assert parse_config(config.model_dump(mode="json")) == config


def test_overrides_change_only_what_they_name() -> None:
    config = make_config("quick", overrides={"training": {"steps": 7}})
    assert config.training.steps == 7
    assert config.training.batch_size == make_config("quick").training.batch_size


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"training": {"steps": -5}}, "training.steps"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"training": {"learning_rate": 50.0}}, "training.learning_rate"),
        ({"training": {"held_out": 1.5}}, "training.held_out"),
        ({"training": {"classification": "nonsense"}}, "training.classification"),
        ({"training": {"batch_size": 2, "n_levels": 3}}, "batch_size"),
        ({"training": {"n_levels": 5}, "ladder": {"n_training_rungs": 4}}, "n_levels"),
        ({"training": {"with_target": True, "classification": "forward_kl"}}, "forward_kl"),
        ({"training": {"stepz": 5}}, "training.stepz"),
        ({"ladder": {"sigma_min": 5.0, "sigma_max": 1.0}}, "sigma_min"),
        ({"ladder": {"sigma_min": float("nan")}}, "ladder.sigma_min"),
        ({"ladder": {"sigma_max": float("inf")}}, "ladder.sigma_max"),
        ({"sampling": {"n_samples": -1}}, "sampling.n_samples"),
        ({"rounds": {"n_rounds": -1}}, "rounds.n_rounds"),
        ({"rounds": {"least_share": 0.7}}, "rounds.least_share"),
        ({"correction": {"method": "magic"}}, "correction.method"),
        ({"correction": {"threshold": 1.5}}, "correction.threshold"),
        ({"correction": {"pilot_particles": 3}}, "correction.pilot_particles"),
        ({"network": {"width": 10**6}}, "network.width"),
        ({"nonsense": {}}, "nonsense"),
    ],
)
def test_absurd_settings_are_refused_by_name(overrides: dict[str, dict[str, object]], named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        make_config("quick", overrides=overrides)


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="quick, standard, best"):
        make_config("fast")


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed"):
        make_config("quick", seed=-1)


def test_settings_of_each_round_differ_in_what_they_should() -> None:
    config = make_config("quick", seed=3, overrides={"rounds": {"n_rounds": 2, "steps": 70, "n_rungs": 21}})
    first, second, third = (config.of_round(index) for index in range(3))
    assert (first.training, first.seed) == (config.training, config.seed)
    assert second.training.steps == third.training.steps == 70
    assert len({first.seed, second.seed, third.seed}) == 3
    assert [round_.ladder.n_rungs for round_ in (first, second, third)] == [21, 21, config.ladder.n_rungs]
    assert make_config("quick").of_round(0) == make_config("quick")
