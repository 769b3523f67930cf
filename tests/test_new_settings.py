"""Settings that new systems recommend by size are settings, and are written as such."""

import pytest
import yaml

from bgdiff.config import make_config
from bgdiff.setup.basins import Basins
from bgdiff.setup.lengths import simulation_lengths
from bgdiff.setup.recommended import recommended_settings
from bgdiff.setup.system_yaml import Content, system_yaml

DEFAULT = make_config("standard")


def test_a_dipeptide_needs_none() -> None:
    assert recommended_settings(22) == {}


@pytest.mark.parametrize(("n_atoms", "width"), [(32, DEFAULT.network.width), (42, 384), (138, 384)])
def test_larger_molecules_get_sequential_monte_carlo(n_atoms: int, width: int) -> None:
    settings = recommended_settings(n_atoms)
    config = make_config("standard", recommended={"standard": settings})
    assert config.correction.method == "smc"
    assert config.coordinates.conditional
    assert config.network.width == width
    assert make_config("quick", recommended={"standard": settings}) == make_config("quick")


def test_they_are_written_as_they_are() -> None:
    settings = recommended_settings(42)
    lengths = simulation_lengths(42, 1, batched=True, implicit=True)
    content = Content("x", "x", 300.0, (), (), Basins(), [{}], lengths, settings)
    assert yaml.safe_load(system_yaml(content))["settings"] == {"standard": settings}
    without = Content("x", "x", 300.0, (), (), Basins(), [{}], lengths)
    assert "settings" not in yaml.safe_load(system_yaml(without))
