"""Settings: presets are valid, bad values are named."""

import re

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
        ({"training": {"objectives": {"nonsense": 1}}}, "training.objectives: unknown objective 'nonsense'"),
        ({"training": {"objectives": {"bi_level": -1}}}, "training.objectives: the weight of bi_level"),
        ({"training": {"objectives": {"bi_level": float("inf")}}}, "the weight of bi_level must be positive"),
        ({"training": {"objectives": {"bi_level": "much"}}}, "training.objectives.bi_level"),
        ({"training": {"objectives": {"bi_level": 0, "mixed_score": None}}}, "no term trains the energy"),
        ({"training": {"objective_options": {"nonsense": {}}}}, "objective_options: unknown objective"),
        ({"training": {"objective_options": {"bi_level": {"size": 1}}}}, "bi_level.size: no such option"),
        (
            {"training": {"with_target": True, "objectives": {"bi_level": 0}}},
            "with_target needs an objective",
        ),
        ({"training": {"batch_size": 2, "n_levels": 3}}, "batch_size"),
        ({"training": {"n_levels": 5}, "ladder": {"n_training_rungs": 4}}, "n_levels"),
        ({"training": {"with_target": True, "objectives": {"forward_kl": 1}}}, "forward_kl"),
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
    with pytest.raises(ConfigError, match=re.escape(named)):
        make_config("quick", overrides=overrides)


def test_single_objectives_are_added_and_left_out() -> None:
    def terms(**objectives: float | None) -> dict[str, float]:
        return make_config("quick", overrides={"training": {"objectives": objectives}}).training.objectives

    assert terms() == {"mixed_score": 1.0, "bi_level": 0.03}
    assert terms(bi_level=0) == {"mixed_score": 1.0}
    assert terms(bi_level=None, multi_level=0.5) == {"mixed_score": 1.0, "multi_level": 0.5}
    # the order in which terms are computed is that of the registry
    assert list(terms(denoising_score=1)) == ["mixed_score", "denoising_score", "bi_level"]


@pytest.mark.parametrize(
    ("former", "objectives"),
    [
        ({"classification": None}, {"mixed_score": 1.0}),
        ({"classification": "bi_level", "classification_weight": 0.1}, {"mixed_score": 1.0, "bi_level": 0.1}),
        ({"classification": "multi_level"}, {"mixed_score": 1.0, "multi_level": 0.1}),
        ({"classification_weight": 1.0}, {"mixed_score": 1.0, "bi_level": 1.0}),
        ({"classification_weight": 0.0}, {"mixed_score": 1.0}),
    ],
)
def test_fields_of_earlier_versions_are_understood(
    former: dict[str, object], objectives: dict[str, float]
) -> None:
    """In stored runs, which hold every field, and where a system or the command line changes some."""
    assert make_config("quick", overrides={"training": former}).training.objectives == objectives
    stored = make_config("quick").model_dump(mode="json")
    del stored["training"]["objectives"], stored["training"]["objective_options"]
    stored["training"] |= former
    read = parse_config(stored)
    assert read.training.objectives == objectives
    assert parse_config(read.model_dump(mode="json")) == read


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
