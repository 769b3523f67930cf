"""The rows of the objectives' benchmark that are shipped are those of the documentation."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "objectives" / "results"
FILES = sorted(RESULTS.glob("*.json"))
PAGE = ROOT / "docs" / "objectives-tables.md"


@pytest.fixture(autouse=True)
def _benchmarks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_all_studies_have_shipped_rows() -> None:
    assert {"gmm", "modes", "planar"} <= {file.stem.split("_")[0] for file in FILES}
    assert sum(file.stat().st_size for file in FILES) < 4e6


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_tables_of_the_page(file: Path) -> None:
    """Every line of the tables of the shipped rows is on the page."""
    from benchmarks.objectives.__main__ import STUDIES
    from benchmarks.objectives.shipped import read_rows, rounded

    study = file.stem.split("_")[0]
    lines = set(PAGE.read_text(encoding="utf-8").splitlines())
    rows = rounded(read_rows(file, study))
    assert rows
    for table in STUDIES[study][1](rows):
        missing = [line for line in table.markdown().splitlines() if line not in lines]
        assert not missing, f"docs/{PAGE.name} differs from {file.name}: write it anew with --markdown"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rows_are_of_today_s_settings(file: Path) -> None:
    """Each is one job as the settings have it; else ``--known`` would train it again in silence."""
    from benchmarks.objectives.__main__ import STUDIES
    from benchmarks.objectives.jobs import settings_of
    from benchmarks.objectives.shipped import read_rows

    study, *survey = file.stem.split("_")
    settings = settings_of(study, False, survey=bool(survey))
    jobs = STUDIES[study][0](study, settings, None, settings["seeds"])
    for row in read_rows(file, study):
        of = [job.key for job in jobs if job.describes.items() <= row.items()]
        assert len(of) == 1, f"{row['objective']}, seed {row['seed']}: {of}"


def test_headline_numbers_of_the_page() -> None:
    """The worst level of two modes, seed by seed, and the plane's Sinkhorn distances."""
    from benchmarks.objectives.shipped import read_rows

    lines = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8").splitlines()
    worst = []
    for dim in (2, 8, 32, 128):
        seeds = {
            row["seed"]: max(map(abs, row["levels"]["mode_error"]))
            for row in read_rows(RESULTS / "modes.json", "modes")
            if row["dim"] == dim and row["objective"] == "DiffCLF bi-level + score + Fokker-Planck, averaged"
        }
        assert sorted(seeds) == [0, 1, 2]
        assert max(seeds.values()) < 0.05
        worst.append("**" + ", ".join(f"{value:.3f}" for _, value in sorted(seeds.items())) + "**")
    assert f"| **worst mode weight / nat**, three seeds | {' | '.join(worst)} |" in lines
    planar = read_rows(RESULTS / "planar.json", "planar")
    assert len(planar) == 5
    for row in planar:
        ratios = [row[f"Sinkhorn {kind}"] / row["Sinkhorn floor"] for kind in ("walks", "SMC")]
        assert max(ratios) < 1.2
        shown = f"| {row['set']} | {ratios[0]:.2f} | {ratios[1]:.2f} |"
        assert any(line.startswith(shown) for line in lines), shown
