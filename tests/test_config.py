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
