"""Rows of a study: what JSON makes of them, and one small file of them as shipped in ``results/``."""

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, environment
from bgdiff.errors import ConfigError
from bgdiff.io import read_json, write_text

__all__ = ["compact", "read_row", "read_rows", "rounded", "shipped_file", "write_rows"]

_SETTINGS = ("recipe", "settings")
_LEFT_OUT = ("picture", "losses")
_DIGITS, _CURVE_DIGITS = 4, 3
_RESULTS = Path(__file__).parent / "results"


def shipped_file(study: str, survey: bool) -> Path:
    """Where the rows of a study, or of its survey, are shipped."""
    return _RESULTS / f"{study}_survey.json" if survey else _RESULTS / f"{study}.json"


def compact(value: Any, digits: int = _DIGITS) -> Any:
    """Plain values with numbers of four digits, lists' of three, without pictures and curves of training.

    Settings keep every digit: they say what was done. What is not finite is null, as JSON has it.
    """
    if isinstance(value, dict):
        return {
            key: inner if key in _SETTINGS else compact(inner, digits)
            for key, inner in value.items()
            if key not in _LEFT_OUT
        }
    if isinstance(value, list):
        return [compact(inner, _CURVE_DIGITS) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def write_rows(file: Path, study: str, rows: list[Row]) -> None:
    """Write compact rows, one to a line, with the versions and the processor of this process."""
    lines = ",\n".join(json.dumps(compact(row), ensure_ascii=False, allow_nan=False) for row in rows)
    known = json.dumps(environment(), allow_nan=False)
    write_text(file, f'{{"study": {json.dumps(study)},\n"environment": {known},\n"rows": [\n{lines}\n]}}\n')


def read_rows(file: Path, study: str) -> list[Row]:
    """The rows of a file.

    Raises:
        ConfigError: the file has none, or those of another study.
    """
    content = read_json(file)
    if not isinstance(content, dict) or "rows" not in content or content.get("study") != study:
        raise ConfigError(f"{file}: has no rows of {study}; --json writes such files")
    return [_with_nan(row) for row in content["rows"]]


def read_row(file: Path) -> Row:
    """The row of one finished job; null, JSON's word for what is not finite, is nan again."""
    return dict(_with_nan(read_json(file)))


def rounded(rows: list[Row]) -> list[Row]:
    """The rows as they come back from a file, so that tables of both are the same."""
    return [_with_nan(compact(row)) for row in rows]


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: inner if key in _SETTINGS else _with_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_nan(inner) for inner in value]
    return math.nan if value is None else value
