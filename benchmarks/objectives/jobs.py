"""Studies as lists of independent jobs, each of which ends in a file of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmarks.harness import Row
from benchmarks.objectives.shipped import read_row
from bgdiff.console import StageProgress
from bgdiff.errors import BgdiffError, ConfigError
from bgdiff.io import make_directory, write_json
from bgdiff.progress import Progress

__all__ = ["Job", "finished_rows", "key_of", "merged", "settings_of", "with_changes"]

_SETTINGS = Path(__file__).parent / "settings"


@dataclass(frozen=True)
class Job:
    """One training and what is measured of it.

    Args:
        key: name of its file.
        describes: all that decides its result; stored with it.
        run: does the work, in a folder of its own if it needs one; returns plain values.
    """

    key: str
    describes: Row
    run: Callable[[Progress, Path], Row]


def key_of(*parts: str) -> str:
    """A file name of the parts: letters and digits of any script, the rest as hyphens."""
    return "-".join("".join(c if c.isalnum() else "-" for c in part.replace(" ", "")) for part in parts)


def settings_of(study: str, quick: bool, survey: bool = False) -> dict[str, Any]:
    """The study's settings; their sections ``survey`` and ``quick`` replace what they name, if asked for.

    An objective that the survey names with nothing (null) is not in it.

    Raises:
        ConfigError: the study has no survey.
    """
    content = yaml.safe_load((_SETTINGS / f"{study}.yaml").read_text())
    shorter, reduced = content.pop("survey", None), content.pop("quick")
    if survey:
        if shorter is None:
            raise ConfigError(f"{study} has no survey: all of its variants get the same training")
        content = merged(content, shorter)
        every = content["objectives"].items()
        content["objectives"] = {name: changes for name, changes in every if changes is not None}
    return merged(content, reduced) if quick else content


def merged(base: dict[Any, Any], changes: dict[Any, Any]) -> dict[Any, Any]:
    """Settings with changes; mappings are merged, everything else is replaced."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def with_changes(settings: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Settings with changes such as ``recipe.steps=500``.

    Raises:
        ConfigError: there is no such setting.
    """
    for change in changes:
        name, sign, value = change.partition("=")
        place: Any = settings
        path: list[str | int] = []
        for part in name.split("."):
            place = place.get(path[-1]) if path and isinstance(place, dict) else place
            known = isinstance(place, dict)
            path.append(int(part) if known and part.isdigit() and int(part) in place else part)
        *above, last = path
        open_ended = above == ["recipe"] or above[:-1] == ["by_dim"]  # what is not there has a default
        if not sign or not isinstance(place, dict) or (last not in place and not open_ended):
            raise ConfigError(f"--set {change}: there is no setting {name!r}")
        nested: dict[str | int, Any] = {last: yaml.safe_load(value)}
        for key in reversed(above):
            nested = {key: nested}
        settings = merged(settings, nested)
    return settings


def finished_rows(
    jobs: Sequence[Job],
    folder: Path,
    console: Console,
    *,
    part: tuple[int, int] = (0, 1),
    work: bool = True,
    known: Sequence[Row] = (),
) -> list[Row]:
    """Results of all jobs that are done, after those of this part have been done.

    Args:
        part: (i, n): this process does jobs i, i + n, ...
        work: False to read only.
        known: rows of elsewhere; a job that one of them describes in full is done.

    Raises:
        ConfigError: a result in the folder belongs to other settings.
    """
    make_directory(folder)
    progress = StageProgress(console)
    done = {job.key: row for job in jobs for row in known if job.describes.items() <= row.items()}
    for index, job in enumerate(jobs):
        file = folder / f"{job.key}.json"
        if not work or job.key in done or file.is_file() or index % part[1] != part[0]:
            continue
        try:
            with progress.stage(job.key) as report:
                result = job.run(report, folder / job.key)
        except (FloatingPointError, BgdiffError) as error:  # a result, too: the others go on
            result = {"failed": str(error)}
        write_json(file, {**job.describes, **result})
    rows = []
    for job in jobs:
        file = folder / f"{job.key}.json"
        if job.key in done:
            rows.append(done[job.key])
        elif file.is_file():
            row = read_row(file)
            other = [name for name, value in job.describes.items() if row.get(name) != value]
            if other:
                raise ConfigError(
                    f"{file}: was made with other settings ({', '.join(other)}); "
                    "delete it, or choose another folder with --keep"
                )
            rows.append(row)
    return rows
