"""One report that several tests look at, built once."""

from pathlib import Path

import pytest

__all__ = ["molecule_report"]


@pytest.fixture(scope="session")
def molecule_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``report.html`` of a run on alanine dipeptide."""
    from synthetic_run import molecule

    from bgdiff.analysis.report import build_report

    directory = tmp_path_factory.mktemp("molecule_report")
    molecule(directory, conformations=True)
    return build_report(directory)
