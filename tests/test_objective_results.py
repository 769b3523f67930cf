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
