"""results.json: estimates against what the samples were made from, schema, documentation, summary."""

import json
import math
import re
from pathlib import Path
from typing import get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError
from rich.console import Console
from synthetic_run import chains, changed, double_well, molecule

from bgdiff.analysis.results import Results, read_results, write_results, z_score
from bgdiff.analysis.summarise import rebalancing_log_weight, summarise
from bgdiff.analysis.summary import summary_table
from bgdiff.analysis.verdict import Level, verdict
from bgdiff.errors import CheckpointError, DataError
from bgdiff.systems import load_system

DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return molecule(tmp_path_factory.mktemp("molecule"))


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return double_well(tmp_path_factory.mktemp("well"))[0]


def test_estimates_recover_what_the_molecule_was_made_from(good: Results) -> None:
    (difference,) = good.free_energy_differences
    assert difference.value is not None
    assert difference.std_error is not None
    truth = math.log(0.991 / 0.009)
    assert abs(difference.value - truth) < 4 * difference.std_error
    assert difference.data_value == pytest.approx(math.log(0.71 / 0.29), abs=0.1)
    assert good.log_z.value == pytest.approx(-120.0, abs=4 * (good.log_z.std_error or 0))
    negative, positive = good.basins
    assert (negative.reweighted or 0) + (positive.reweighted or 0) == pytest.approx(1)
    assert positive.reweighted == pytest.approx(0.009, abs=4 * (positive.reweighted_std_error or 0))
    assert good.n_nonfinite == 9
    assert good.n_data == 40_000


def test_double_well_agrees_with_quadrature(well: Results) -> None:
    assert abs(well.log_z.z_score or math.inf) < 4
    assert abs(well.free_energy_differences[0].z_score or math.inf) < 4
    assert well.temperature is None
    assert well.basins[0].intervals == [(None, 0.0)]
    assert [info.unit for info in well.observables] == ["reduced", "reduced"]


def test_rebalanced_forward_ess_forgives_wrong_proportions_only(good: Results) -> None:
    assert good.ess_forward is not None
    assert good.ess_forward_rebalanced is not None
    assert good.ess_forward < 0.2 * good.ess_kish
    assert good.ess_forward_rebalanced == pytest.approx(good.ess_kish, rel=0.15)


def test_rebalancing_gives_held_out_data_the_reweighted_populations() -> None:
    log_weight = np.log([3.0, 1.0, 4.0, 2.0])
    proposal = {"a": np.array([1, 1, 0, 0], bool), "b": np.array([0, 1, 1, 0], bool)}  # four cells
    held_out = {"a": np.array([1, 1, 1, 0, 0, 0], bool), "b": np.array([0, 0, 1, 1, 1, 0], bool)}
    importance = rebalancing_log_weight(log_weight, proposal, held_out, 6)
    assert importance is not None
    weights = np.exp(importance)
    np.testing.assert_allclose(weights / weights.sum(), [0.15, 0.15, 0.1, 0.2, 0.2, 0.2])
    unseen = {"a": np.zeros(6, bool), "b": held_out["b"]}
    assert rebalancing_log_weight(log_weight, proposal, unseen, 6) is None


def test_an_empty_basin_leaves_null_and_a_warning() -> None:
    system = load_system("double_well")
    left = {"x": np.full(50, -1.4), "y": np.zeros(50)}
    results = summarise(
        system, np.zeros(50), left, left, preset="quick", seed=0, bgdiff_version="0", target_evaluations=1,
        timings={}, versions={}, held_out=left, held_out_log_weight=np.zeros(50), warnings=["from training"],
    )  # fmt: skip
    (difference,) = results.free_energy_differences
    assert difference.value is None
    assert difference.std_error is None
    assert difference.data_value is None
    assert results.warnings[0] == "from training"
    assert "basin right: no sample" in results.warnings[1]
    level, sentences = verdict(results)
    assert level is Level.UNRELIABLE
    assert any("could not be estimated" in sentence for sentence in sentences)
    assert "not known" in rendered(results)


def test_array_lengths_are_checked() -> None:
    system = load_system("double_well")
    three, two = ({"x": np.zeros(n), "y": np.zeros(n)} for n in (3, 2))
    facts = {"preset": "", "seed": 0, "bgdiff_version": "", "target_evaluations": 0}
    with pytest.raises(DataError, match=r"proposal: observable x has shape \(2,\), but there are 3"):
        summarise(system, np.zeros(3), two, three, timings={}, versions={}, **facts)


def test_file_round_trip(good: Results, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", good)
    assert read_results(tmp_path / "results.json") == good
    content = json.loads((tmp_path / "results.json").read_text())
    required = (
        "n_samples ess_kish ess_forward ess_clipped_1e4 ess_trimmed_0p2pct max_weight_share pareto_k log_z "
        "free_energy_differences n_nonfinite target_evaluations timings versions"
    )
    assert set(required.split()) <= set(content)
    assert {"value", "std_error"} <= set(content["log_z"])
    assert {"name", "value", "std_error", "reference", "reference_std_error"} <= set(
        content["free_energy_differences"][0]
    )


def test_unknown_errors_are_null_in_the_file(well: Results, tmp_path: Path) -> None:
    unknown = changed(well, pareto_k=math.nan, log_z=well.log_z.model_dump() | {"std_error": math.inf})
    assert unknown.log_z.std_error is None
    write_results(tmp_path / "results.json", unknown)
    assert read_results(tmp_path / "results.json") == unknown


def test_damaged_files_are_named(well: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(CheckpointError, match=r"results\.json: file is missing"):
        read_results(path)
    path.write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="schema version None"):
        read_results(path)
    content = well.model_dump(mode="json")
    path.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(CheckpointError, match="schema version 99, this bgdiff reads version 1"):
        read_results(path)
    path.write_text(json.dumps(content | {"ess_kish": "good", "surprise": 1}))
    with pytest.raises(CheckpointError, match=r"ess_kish: .*surprise: "):
        read_results(path)


def schema_keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted keys of the leaves, ``name[]`` for the items of a list; each must have a description."""
    keys = set()
    for name, field in model.model_fields.items():
        assert field.description, f"{prefix}{name} has no description"
        inner = [
            part
            for part in (field.annotation, *get_args(field.annotation))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        if inner:
            suffix = "[]." if get_origin(field.annotation) is list else "."
            keys |= schema_keys(inner[0], prefix + name + suffix)
        else:
            keys.add(prefix + name)
    return keys


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    documented = re.findall(r"^\| `([^`]+)` \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == schema_keys(Results)


def test_z_score_needs_both_errors() -> None:
    assert z_score(1.5, 0.3, 1.0, 0.4) == pytest.approx(1.0)
    assert z_score(1.5, None, 1.0, 0.4) is None
    assert z_score(1.5, 0.3, 1.0, None) is None
    assert z_score(1.5, 0.0, 1.0, 0.0) is None


def rendered(results: Results, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(results))
    return capture.get()


def test_summary_table(good: Results) -> None:
    text = rendered(good)
    assert "ΔF(phi_negative → phi_positive) / kT" in text
    assert "reference 4.680 ± 0.050" in text
    assert "effective sample size (Kish)" in text
    assert "✓" in text
    assert len(rendered(good, width=60)) > 0


def test_user_text_is_not_markup(good: Results) -> None:
    assert "[bold]x[/bold]" in rendered(changed(good, title="[bold]x[/bold]"))


def test_copies_are_reported_as_what_they_are() -> None:
    """Two thirds of the samples are copies: the headline, the errors and the verdict count families."""
    system, rng = load_system("double_well"), np.random.default_rng(3)
    n = 3000
    family = np.repeat(np.arange(n // 3), 3)
    x = rng.normal(size=n // 3)[family] * 1.5
    observables = {"x": x, "y": rng.normal(size=n)}
    facts = {
        "preset": "best",
        "seed": 0,
        "bgdiff_version": "0",
        "target_evaluations": n,
        "timings": {},
        "versions": {},
    }
    alone = summarise(system, np.zeros(n), observables, observables, **facts)
    found = summarise(
        system, np.zeros(n), observables, observables, method="smc", family=family,
        n_resamplings=1, n_populations=1, **facts,
    )  # fmt: skip
    assert (alone.method, alone.effective_fraction, alone.surviving_ancestors) == ("is", 1.0, None)
    assert (found.method, found.ess_kish, found.surviving_ancestors) == ("smc", 1.0, 1000)
    assert found.effective_fraction == pytest.approx(1 / 3)
    assert found.independent_fraction == pytest.approx(1 / 3)
    assert "worth 1 000 independent ones" in " ".join(verdict(found)[1]).replace("\u202f", " ").replace(
        ",", " "
    )
    ours, plain = found.free_energy_differences[0], alone.free_energy_differences[0]
    assert ours.value == plain.value
    assert ours.std_error == pytest.approx(3**0.5 * plain.std_error, rel=0.01)
    assert found.log_z.method.endswith("over families")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return chains(tmp_path_factory.mktemp("chains"))


def test_results_of_chains(mixed: Results, tmp_path: Path) -> None:
    """Unweighted draws: no log Z and no weights, errors of independent draws when that is what they are."""
    assert (mixed.log_z, mixed.ess_kish, mixed.pareto_k, mixed.max_weight_share) == (None,) * 4
    assert mixed.ess_forward is not None
    (difference,) = mixed.free_energy_differences
    share = 1 / (1 + math.exp(2.629382))
    independent = 1 / math.sqrt(mixed.n_samples * share * (1 - share))
    assert difference.std_error == pytest.approx(independent, rel=0.1)
    assert abs(difference.value - 2.629382) < 4 * difference.std_error
    assert 0.8 < (mixed.effective_fraction or 0) <= 1
    assert mixed.effective_samples_per_second == pytest.approx(mixed.independent_fraction * 20_000 / 100)
    assert mixed.effective_samples_per_evaluation == pytest.approx(
        mixed.independent_fraction * 20_000 / 52_000
    )
    write_results(tmp_path / "results.json", mixed)
    assert read_results(tmp_path / "results.json") == mixed
    level, sentences = verdict(mixed)
    assert level is Level.RELIABLE
    assert any(re.search(r"^R-hat 1\.00\d over 20 chains: they agree\.$", text) for text in sentences)
    text = rendered(mixed)
    for words in ("R-hat", "arrivals from the prior", "2\u202f345", "least 31.0 %", "per second"):
        assert words in text
    assert "log Z" not in text
    assert "Pareto" not in text


def test_results_without_a_size_are_refused(mixed: Results, well: Results) -> None:
    for results, name in ((mixed, "effective_fraction"), (well, "ess_kish")):
        with pytest.raises(ValidationError, match="chains need an effective_fraction, and weighted samples"):
            changed(results, **({"effective_fraction": None} | {name: None}))
