"""Figures and report section of free energies; the check of the normalisers that every run makes."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from synthetic_run import double_well
from test_report import outline

from bgdiff.analysis.free_energy_figures import draw_free_energies
from bgdiff.analysis.free_energy_results import (
    FreeEnergies,
    Histogram,
    ProfileRecord,
    Rungs,
    TemperaturePoint,
    write_free_energies,
)
from bgdiff.analysis.free_energy_view import free_energies_view, learned_against_mbar
from bgdiff.analysis.report import build_report
from bgdiff.analysis.results import Normalisers, read_results, write_results
from bgdiff.analysis.verdict import Level
from bgdiff.free_energies.conditions import at_another_temperature, profile_along
from bgdiff.free_energies.estimates import Found, Repeats
from bgdiff.free_energies.paths import cells, work_range
from bgdiff.free_energies.records import quantity_record
from bgdiff.free_energies.samples import SampleSet
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.judgement import Candidate
from bgdiff.observable_spec import ObservableSpec

NOTHING = Repeats()


def samples(n: int = 2000) -> SampleSet:
    generator = np.random.default_rng(0)
    energy = 0.5 * generator.chisquare(60, size=n)
    return SampleSet("walks down", 0.3 * generator.standard_normal(n), [], None, energy)  # type: ignore[arg-type]


def content(values: dict[str, tuple[float, float, float]]) -> FreeEnergies:
    """One quantity by estimators with (value, error, n_eff), and everything else that can be asked for."""
    found = Found(
        [
            Candidate(name, Estimate(v, e, name, n, 0.5), {name: 1000}, exact=name != "learned normalisers")
            for name, (v, e, n) in values.items()
        ],
        {"path BAR": "no held-out <frames>"},
    )
    works = Histogram(
        label="left", edges=[0.0, 1.0, 2.0], forward=[0.4, 0.6], reverse=[0.7, 0.3], crossing=1.0
    )
    reference = {"value": 2.6, "std_error": 0.02, "method": "quadrature"}
    quantity = quantity_record(
        found,
        key="wells & co",
        kind="difference",
        title="ΔF(left → right)",
        reference=reference,
        works=[works],
    )
    left = np.random.default_rng(1).random(2000) < 0.8
    points = [
        at_another_temperature(samples(), 300.0, t, {"wells": (left, ~left)}, {}, NOTHING, {})
        for t in (280.0, 300.0, 320.0, 3000.0)
    ]
    phi = np.random.default_rng(2).vonmises(0.0, 2.0, size=2000)
    spec = ObservableSpec(dihedral=(0, 1, 2, 3))
    profile = profile_along(samples(), "phi", spec, phi, NOTHING, molecule=True)
    rungs = Rungs(
        sigma=[0.0, 0.1, 1.0, 10.0],
        learned=[None, -0.95, -0.5, 0.0],
        mbar=[-6.0, -1.0, -0.52, 0.0],
        mbar_std_error=[0.05, 0.02, 0.02, 0.0],
        overlap=np.full((4, 4), 0.25).tolist(),
    )
    return FreeEnergies(
        bgdiff_version="0", system="double_well", title="A <well>", temperature=300.0, settings={},
        limits={"enough": 50.0, "false_alarms": 0.01}, quantities=[quantity], temperatures=points,
        profiles=[profile], rungs=rungs, warnings=["beware of <b>"],
    )  # fmt: skip


GOOD = {"importance sampling": (2.62, 0.04, 900.0), "MBAR over rungs": (2.55, 0.06, 300.0)}
POOR = {"importance sampling": (7.77, 0.4, 7.0), "MBAR over rungs": (7.77, 0.6, 3.0)}


def shown(what: FreeEnergies) -> str:
    stream = io.StringIO()
    Console(file=stream, width=80).print(free_energies_view(what))
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    return " ".join(stream.getvalue().split())


def test_figures() -> None:
    drawn = {
        one.name: one for one in draw_free_energies(content(GOOD | {"learned normalisers": (3.0, 0.1, 9.0)}))
    }
    assert set(drawn) == {
        "free_energy_wells_co", "works_wells_co", "free_energy_profile_phi", "temperature_0", "rungs",
        "overlap",
    }  # fmt: skip
    for one in drawn.values():
        assert isinstance(one.figure, Figure)
        assert one.caption.endswith(".")
        assert len(one.alt) > 20
    forest = drawn["free_energy_wells_co"].figure.axes[0]
    assert [tick.get_text() for tick in forest.get_yticklabels()] == [*GOOD, "learned normalisers"]
    low, high = forest.get_xlim()
    assert low < 2.43 < 3.2 < high  # two standard errors of all, and the reference


def test_a_refused_quantity_shows_no_number() -> None:
    said = shown(content(POOR))
    assert "7.77" not in said
    assert "refused" in said
    assert "at least 6200 more samples" in said
    (forest,) = (one for one in draw_free_energies(content(POOR)) if one.name.startswith("free_energy_wells"))
    texts = [text.get_text() for ax in forest.figure.axes for text in ax.get_yticklabels()]
    texts += [t.get_text() for ax in forest.figure.axes for c in ax.child_axes for t in c.get_yticklabels()]
    assert not any("7.77" in text for text in texts)
    assert "refused" in texts


def test_what_is_shown_on_the_terminal() -> None:
    said = shown(content(GOOD))
    for words in (
        "▸ importance sampling", "quoted", "ΔF(left → right) = 2.620 ± 0.040 kT = 6.5", "kJ/mol",
        "reference 2.600 ± 0.020", "Consistent: χ²", "no path BAR: no held-out <frames>", "280 K",
        "refused: temperature 3000", "Profile along phi", "Learned normalisers agree with MBAR over 3 rungs",
        "beware of <b>",
    ):  # fmt: skip
        assert words in said, words


def test_learned_normalisers_beyond_the_limit() -> None:
    known = {"sigma": [1.0, 2.0], "mbar": [-1.0, 0.0], "mbar_std_error": [0.02, 0.0], "overlap": []}
    far = learned_against_mbar(Rungs(learned=[-1.3, 0.0], **known))
    assert far is not None
    assert far[0] is Level.CAUTION
    assert "0.300 ± 0.020 kT" in far[1]
    assert learned_against_mbar(Rungs(learned=[], **known)) is None


def test_report_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_figures", "free_energy_figures"):  # they have tests of their own
        monkeypatch.setattr(f"bgdiff.analysis.report.{name}", lambda *_: iter(()))
    double_well(tmp_path, n=500)
    write_free_energies(tmp_path / "free_energies.json", content(GOOD))
    results = read_results(tmp_path / "results.json")
    found = Normalisers(
        largest=-0.05, std_error=0.01, rms=0.02, ok=True, overlap=0.5, sigma=[0.1, 1.0], learned=[-1.0, -0.4],
        mbar=[-0.95, -0.39], mbar_std_error=[0.01, None],
    )  # fmt: skip
    assert "normalisers" not in json.loads((tmp_path / "results.json").read_text())
    write_results(tmp_path / "results.json", results.model_copy(update={"normalisers": found}))
    assert read_results(tmp_path / "results.json").normalisers == found
    page = outline(build_report(tmp_path))
    for words in (
        "Free energies", "importance sampling", "2.620 ± 0.040", "from the reference",
        "Reference: quadrature", "Estimators that do not apply", "no held-out <frames>", "Other temperatures",
        "Refused: temperature 3000", "learned normalisers", "−0.050 ± 0.010", "within the limit of 0.1",
        "free_energies.json",
    ):  # fmt: skip
        assert words in page.text, words


def test_cells_of_regions() -> None:
    a = np.array([True, True, False, False])
    b = np.array([False, True, True, False])
    names, numbers = cells({"a": [a, a[::-1]], "b": [b, b]})
    assert names == ["a", "b", "a and b"]
    assert [part.tolist() for part in numbers] == [[0, 2, 1, -1], [-1, 1, 2, 0]]


def test_temperature_point_and_profile_are_refused_when_they_must_be() -> None:
    point: TemperaturePoint = content(GOOD).temperatures[-1]
    assert point.refused is not None
    assert point.change is None
    broken = np.full(2000, np.nan)
    record: ProfileRecord = profile_along(
        samples(), "phi", ObservableSpec(dihedral=(0, 1, 2, 3)), broken, NOTHING, molecule=True
    )
    assert record.refused is not None
    assert "no finite value" in record.refused
    assert record.unit == "degree"


@pytest.mark.parametrize("name", ["free_energies.json"])
def test_a_damaged_file_stops_the_report(tmp_path: Path, name: str) -> None:
    from bgdiff.errors import CheckpointError

    double_well(tmp_path, n=200)
    (tmp_path / name).write_text("{")
    with pytest.raises(CheckpointError, match=r"free_energies\.json"):
        build_report(tmp_path)


def test_range_of_works_is_that_of_most_walks() -> None:
    """One walk of thirty that went astray does not squeeze the others into a bin."""
    generator = np.random.default_rng(0)
    forward, reverse = generator.normal(3.0, 1.0, 30), generator.normal(1.0, 1.0, 400)
    low, high = work_range(forward, reverse, 2.0)
    assert low < np.quantile(reverse, 0.01)
    assert np.quantile(forward, 0.95) < high < 8.0
    assert work_range(np.append(forward, 60.0), reverse, 2.0)[1] < 8.0
    heavy = np.random.default_rng(3).standard_t(1.5, 2000)
    low, high = work_range(heavy, reverse, 2.0)
    assert np.mean((heavy > low) & (heavy < high)) > 0.98
    assert work_range(forward, reverse, 12.0)[1] > 12.0  # they do not overlap, and that is seen
    assert work_range(np.full(5, 1.0), np.full(5, 1.0), 1.0) == (0.5, 1.5)
