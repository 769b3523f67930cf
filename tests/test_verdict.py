"""The verdict on a run in words, how far each headline number can be relied on, and what to do about it."""

import re

import pytest
from synthetic_run import VIRIAL, chains, changed, comparison, molecule

from bgdiff.analysis.report_rows import Card, cards
from bgdiff.analysis.results import Results
from bgdiff.analysis.verdict import Finding, Level, advice, findings, pareto_k_limit, verdict


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return molecule(tmp_path_factory.mktemp("molecule"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return chains(tmp_path_factory.mktemp("chains"))


def test_verdict_on_a_good_run(good: Results) -> None:
    level, sentences = verdict(good)
    assert level is Level.RELIABLE
    assert "of 20\u202f000 samples" in sentences[0]
    assert sentences[0].endswith("reliable.")
    text = " ".join(sentences)
    assert "agrees with the reference" in text
    assert "reweighting moved it by +3.79" in text
    assert "in the corrected proportions" in text
    assert all(sentence.endswith(".") for sentence in sentences)


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"ess_kish": 0.002, "ess_forward_rebalanced": 0.002}, Level.UNRELIABLE, "too few to trust"),
        ({"ess_kish": 0.02, "ess_forward_rebalanced": 0.02}, Level.CAUTION, "a rough answer"),
        ({"max_weight_share": 0.04}, Level.CAUTION, "A single sample carries 4.0 % of all weight"),
        ({"max_weight_share": 0.2}, Level.UNRELIABLE, "A single sample carries 20.0 %"),
        ({"pareto_k": 0.6}, Level.RELIABLE, "error bars are approximate"),
        ({"pareto_k": 0.8}, Level.CAUTION, "Pareto k 0.80: .* log Z error bar can't be trusted"),
        ({"pareto_k": 1.2}, Level.UNRELIABLE, "may not even have a mean"),
        ({"pareto_k": None}, Level.CAUTION, "cannot be estimated"),
        ({"ess_forward_rebalanced": 0.1}, Level.CAUTION, "a mode may be missing"),
        ({"ess_forward_rebalanced": 0.001}, Level.UNRELIABLE, "a mode may be missing"),
        ({"ess_forward_rebalanced": None}, Level.CAUTION, "a mode may be missing"),
        ({"ess_forward": None}, Level.CAUTION, "No held-out data"),
        ({"n_nonfinite": 900}, Level.CAUTION, r"900 samples \(4.5 %\)"),
        ({"warnings": ["the data are short"]}, Level.CAUTION, r"The data are short\."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_verdict_names_what_is_wrong(good: Results, changes: dict, level: Level, words: str) -> None:
    found, sentences = verdict(changed(good, **changes))
    assert found is level
    assert any(re.search(words, sentence) for sentence in sentences)


@pytest.mark.parametrize(
    ("n_eff", "level", "words"),
    [(40.0, Level.CAUTION, "error bar is rough"), (10.0, Level.UNRELIABLE, "10 .* too few to be trusted")],
)
def test_verdict_on_basins_with_few_samples(good: Results, n_eff: float, level: Level, words: str) -> None:
    difference = good.free_energy_differences[0].model_dump() | {"n_eff": n_eff}
    found = findings(changed(good, free_energy_differences=[difference]))
    assert any(finding.level is level and re.search(words, finding.text) for finding in found)


@pytest.mark.parametrize(
    ("z", "level", "words"),
    [
        (-1.4, Level.RELIABLE, "agrees with the reference .* within 1.4 combined errors"),
        (2.4, Level.CAUTION, "disagrees with the reference .* by 2.4 combined errors"),
        (-3.1, Level.UNRELIABLE, "disagrees with the reference .* by 3.1 combined errors"),
        (None, Level.CAUTION, "cannot be compared"),
    ],
)
def test_verdict_compares_with_the_reference(
    good: Results, z: float | None, level: Level, words: str
) -> None:
    difference = good.free_energy_differences[0].model_dump() | {"z_score": z}
    found = findings(changed(good, free_energy_differences=[difference]))
    about = [finding for finding in found if finding.text.startswith("ΔF(phi_negative → phi_positive)")]
    assert about[0].level is level
    assert re.search(words, about[0].text)


def test_verdict_on_few_samples_in_a_basin_and_no_reference(good: Results) -> None:
    changes = {"n_eff": 12.0, "reference": None, "z_score": None}
    difference = good.free_energy_differences[0].model_dump() | changes
    text = " ".join(verdict(changed(good, free_energy_differences=[difference]))[1])
    assert "rests on 12 effective samples" in text
    assert "no reference to compare with" in text


@pytest.mark.parametrize(
    ("of", "score", "level", "words"),
    [
        ("samples", 0.5, Level.RELIABLE, "of the samples is 36.20 ± 0.40 and must be 36"),
        ("samples", -3.2, Level.CAUTION, "3.2 standard errors from the 36 it must be: the weights' errors"),
        ("data", 5.0, Level.CAUTION, "of the data set .* 5.0 standard errors .* another temperature"),
    ],
)
def test_verdict_on_the_virial(good: Results, of: str, score: float, level: Level, words: str) -> None:
    check = VIRIAL[0].model_copy(update={"of": of, "z_score": score})
    found = [one for one in findings(changed(good, virial=[check.model_dump()])) if "virial" in one.text]
    assert [one.level for one in found] == [level]
    assert re.search(words, found[0].text)


@pytest.mark.parametrize(
    ("value", "n_effective", "level"),
    [(0.31, 3000.0, Level.RELIABLE), (0.9, 3000.0, Level.CAUTION), (0.9, 60.0, Level.RELIABLE)],
)
def test_verdict_on_distances_to_the_reference(
    good: Results, value: float, n_effective: float, level: Level
) -> None:
    """A distance far above its floor is named, unless the weights leave too few samples to be nearer."""
    about = findings(changed(good, comparison=comparison(value, n_effective).model_dump()))
    (found,) = [one for one in about if "held-out equilibrium data" in one.text]
    assert found.level is level
    assert ("energies (W2) 0.9 kT where 0.29 is the floor" in found.text) is (level is Level.CAUTION)
    assert "pair distances" not in found.text


def test_advice_is_about_the_worst_points() -> None:
    fine, odd, bad = (Finding(level, "text") for level in Level)
    assert advice([fine, fine]) == "Nothing that was checked speaks against these numbers and their errors."
    assert advice([odd, fine, odd]) == "Read the 2 points marked ! before you use these numbers."
    assert advice([fine, bad, odd]) == "Do not quote these numbers before the point marked ✗ is mended."


def test_pareto_k_limit() -> None:
    assert pareto_k_limit(20_000) == 0.7
    assert pareto_k_limit(100) == pytest.approx(0.5)
    assert 0 < pareto_k_limit(1) < 0.1


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"rhat": 1.03}, Level.CAUTION, r"R-hat 1\.030 over 20 chains: they have not come to agree yet"),
        ({"rhat": 1.3}, Level.UNRELIABLE, "have not come to agree"),
        ({"rhat": None}, Level.UNRELIABLE, "do not move"),
        ({"acceptance": 0.01}, Level.CAUTION, r"Only 1\.0 % of the moves at the target are accepted"),
        ({"acceptance": 0.01, "round_trips": None}, Level.CAUTION, "of the proposed walks are accepted"),
        ({"swap_rates": {"min": 0.02, "mean": 0.3}}, Level.CAUTION, r"exchange in only 2\.0 % of cases"),
        ({"round_trips": 12}, Level.CAUTION, "12 points came from the prior to the target, too few"),
        ({"round_trips": 0}, Level.UNRELIABLE, "0 points came from the prior"),
        ({"effective_fraction": 0.01}, Level.CAUTION, "worth 200 independent ones"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_verdict_on_chains(mixed: Results, changes: dict, level: Level, words: str) -> None:
    found, sentences = verdict(changed(mixed, **changes))
    assert found is level
    assert any(re.search(words, sentence) for sentence in sentences)


def levels(results: Results) -> dict[str, Level]:
    """Of the headline numbers, by the beginning of their names."""
    found: list[Card] = list(cards(results, findings(results)))
    return {re.split(r"[( ]", card.name)[0]: card.level for card in found}


@pytest.mark.parametrize(
    ("changes", "of_difference", "expected"),
    [
        ({}, {}, (Level.RELIABLE, Level.RELIABLE, Level.RELIABLE)),
        # what is said of one number marks that one only
        ({}, {"n_eff": 10.0}, (Level.UNRELIABLE, Level.RELIABLE, Level.RELIABLE)),
        ({}, {"z_score": 2.4}, (Level.CAUTION, Level.RELIABLE, Level.RELIABLE)),
        ({}, {"value": None}, (Level.UNRELIABLE, Level.RELIABLE, Level.RELIABLE)),
        ({"pareto_k": 0.8}, {}, (Level.RELIABLE, Level.RELIABLE, Level.CAUTION)),
        # what is said of the samples marks their number, and all numbers if nothing holds
        ({"max_weight_share": 0.04}, {}, (Level.RELIABLE, Level.CAUTION, Level.RELIABLE)),
        ({"pareto_k": 1.2}, {}, (Level.UNRELIABLE, Level.UNRELIABLE, Level.UNRELIABLE)),
        ({"ess_kish": 0.002}, {"z_score": 2.4}, (Level.UNRELIABLE,) * 3),
    ],
)
def test_cards_are_marked_by_what_is_said_of_them(
    good: Results, changes: dict, of_difference: dict, expected: tuple[Level, ...]
) -> None:
    difference = good.free_energy_differences[0].model_dump() | of_difference
    found = levels(changed(good, free_energy_differences=[difference], **changes))
    assert (found["ΔF"], found["effective"], found["log"]) == expected


def test_cards_of_chains(mixed: Results) -> None:
    assert set(levels(mixed).values()) == {Level.RELIABLE}
    assert levels(changed(mixed, rhat=1.03))["R-hat"] is Level.CAUTION
    assert set(levels(changed(mixed, rhat=1.3)).values()) == {Level.UNRELIABLE}
