"""Several runs on one system beside each other: what they estimate, what that cost, how they were set."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from bgdiff.analysis.results import Results, read_results, z_score
from bgdiff.analysis.verdict import findings
from bgdiff.errors import RunDirectoryError
from bgdiff.io import read_json

__all__ = ["ComparedRun", "Estimated", "RunComparison", "compare_runs", "homogeneity"]

FALSE_ALARMS = 0.01
"""How often runs that agree are said not to."""


@dataclass(frozen=True)
class ComparedRun:
    """A finished run.

    Attributes:
        name: the end of its path that tells it from the others.
        path: as given.
        results: its ``results.json``.
        manifest: its ``run.json``.
    """

    name: str
    path: Path
    results: Results
    manifest: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """How far its results can be relied on, in words."""
        return max(finding.level for finding in findings(self.results)).words

    def seconds(self, stage: str) -> float | None:
        """Wall-clock time of ``train`` (rounds included) or ``sample``; None if it is not known."""
        found = [
            time
            for name, time in self.results.timings.items()
            if name == stage
            or name.startswith(f"{stage}-")
            or (stage == "train" and name.startswith("round"))
        ]
        return sum(found) if found else None

    def distance(self, metric: str) -> tuple[float, float, float] | None:
        """Value, its standard deviation and floor of a distance to held-out equilibrium data."""
        if self.results.comparison is None:
            return None
        return next(
            (
                (one.value, one.value_std, one.floor)
                for one in self.results.comparison.metrics
                if one.name == metric
            ),
            None,
        )


@dataclass(frozen=True)
class Estimated:
    """One quantity as the runs estimate it.

    Attributes:
        name: ``ΔF(a → b)`` or ``log Z``.
        unit: ``kT``, or empty.
        values, std_errors: one for each run; None where a run has no estimate, or no error.
        reference, reference_std_error: independent value, if the system has one.
        z_scores: ``(i, j, z)`` of every two runs, i < j: (value_j - value_i) over the combined error.
        p_value: of the χ² test that all estimates have one expectation; None for fewer than two.
    """

    name: str
    unit: str
    values: tuple[float | None, ...]
    std_errors: tuple[float | None, ...]
    reference: float | None
    reference_std_error: float | None
    z_scores: tuple[tuple[int, int, float], ...]
    p_value: float | None

    @property
    def largest_z(self) -> float | None:
        """The largest z-score in size between any two runs."""
        return max((abs(z) for _, _, z in self.z_scores), default=None)

    @property
    def agree(self) -> bool | None:
        """Whether the runs agree, at a false-alarm rate of 1 %; None if that cannot be said."""
        return None if self.p_value is None else self.p_value >= FALSE_ALARMS


@dataclass(frozen=True)
class RunComparison:
    """What :func:`compare_runs` found.

    Attributes:
        runs: in the order given.
        estimates: free-energy differences, and log Z.
        settings: dotted name and value in each run of all settings that differ, those of ``run.json`` and
            what the runs were started with; None where a run has no such setting.
        unfinished: paths of runs without results, which are left out.
    """

    runs: tuple[ComparedRun, ...]
    estimates: tuple[Estimated, ...]
    settings: tuple[tuple[str, tuple[Any, ...]], ...]
    unfinished: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``runs``, ``estimates``, ``settings`` by name, ``unfinished``."""
        return {
            "system": self.runs[0].results.system,
            "runs": [_facts(run) for run in self.runs],
            "estimates": [
                asdict(one) | {"largest_z": one.largest_z, "agree": one.agree} for one in self.estimates
            ],
            "settings": {name: list(values) for name, values in self.settings},
            "unfinished": [str(path) for path in self.unfinished],
        }


def compare_runs(directories: Sequence[Path | str]) -> RunComparison:
    """Read finished runs of one potential at one temperature.

    Errors of different runs count as independent: they are, given the models, since every run draws samples
    of its own and each is corrected exactly.

    Raises:
        RunDirectoryError: a directory holds no run or is given twice, fewer than two runs are finished, or
            they are about different systems or basins.
        CheckpointError: a file of a run is damaged.
    """
    paths = [Path(directory) for directory in directories]
    if len({path.resolve() for path in paths}) < len(paths):
        raise RunDirectoryError("a run is given twice; name every run once")
    manifests = [_manifest(path) for path in paths]
    unfinished = tuple(path for path in paths if not (path / "results.json").is_file())
    finished = [
        (path, manifest) for path, manifest in zip(paths, manifests, strict=True) if path not in unfinished
    ]
    if len(finished) < 2:
        told = "".join(
            f"; {path} is not finished, continue it with: bgdiff run --resume {path}" for path in unfinished
        )
        raise RunDirectoryError(f"a comparison needs two finished runs{told}")
    names = _names([path for path, _ in finished])
    runs = tuple(
        ComparedRun(name, path, read_results(path / "results.json"), manifest)
        for name, (path, manifest) in zip(names, finished, strict=True)
    )
    _check_same_system(runs)
    return RunComparison(runs, tuple(_estimates(runs)), tuple(_settings(runs)), unfinished)


def _manifest(path: Path) -> Mapping[str, Any]:
    file = path / "run.json"
    if not file.is_file():
        raise RunDirectoryError(f"{path}: holds no run (run.json is missing)")
    content = read_json(file)
    return content if isinstance(content, dict) else {}


def _names(paths: Sequence[Path]) -> list[str]:
    """Of each path as many last parts as are needed to tell it from all others."""
    whole = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-length:]) for parts in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _check_same_system(runs: Sequence[ComparedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.results.system != first.results.system:
            raise RunDirectoryError(
                f"{run.path} is about {run.results.system}, but {first.path} about {first.results.system}; "
                "compare runs of one system (two systems of the same atoms: bgdiff free-energy RUN --to RUN)"
            )
        if run.manifest.get("system_digest") != first.manifest.get("system_digest"):
            raise RunDirectoryError(
                f"{run.path} and {first.path}: the potential or temperature of {run.results.system} is not "
                "the same in both"
            )
        known = {basin.name: basin for basin in first.results.basins}
        for basin in run.results.basins:
            other = known.get(basin.name)
            if other is not None and _definition(basin) != _definition(other):
                raise RunDirectoryError(
                    f"{run.path} and {first.path}: basin {basin.name} is defined differently; bring the "
                    "older one up to date with: bgdiff reweight"
                )


def _definition(basin: Any) -> Any:
    return basin.observable, basin.intervals, basin.and_conditions


def _estimates(runs: Sequence[ComparedRun]) -> Iterator[Estimated]:
    ends = dict.fromkeys(
        (one.initial, one.final) for run in runs for one in run.results.free_energy_differences
    )
    for initial, final in ends:
        found = [
            next(
                (
                    one
                    for one in run.results.free_energy_differences
                    if (one.initial, one.final) == (initial, final)
                ),
                None,
            )
            for run in runs
        ]
        yield _estimated(f"ΔF({initial} → {final})", "kT", found)
    if any(run.results.log_z is not None for run in runs):
        yield _estimated("log Z", "", [run.results.log_z for run in runs])


def _estimated(name: str, unit: str, found: Sequence[Any]) -> Estimated:
    values = tuple(None if one is None else one.value for one in found)
    errors = tuple(None if one is None else one.std_error for one in found)
    referred = next((one for one in found if one is not None and one.reference is not None), None)
    scores = []
    for i, j in combinations(range(len(found)), 2):
        z = z_score(values[j], errors[j], values[i], errors[i])
        if z is not None:
            scores.append((i, j, z))
    return Estimated(
        name,
        unit,
        values,
        errors,
        None if referred is None else referred.reference,
        None if referred is None else referred.reference_std_error,
        tuple(scores),
        homogeneity(values, errors),
    )


def homogeneity(values: Sequence[float | None], errors: Sequence[float | None]) -> float | None:
    """p-value that all estimates have one expectation; None for fewer than two with errors.

    Of Σ (x - mean)²/σ², the mean weighted by 1/σ²: χ² with one degree of freedom less than values.
    """
    from scipy.stats import chi2

    known = [
        (value, error)
        for value, error in zip(values, errors, strict=True)
        if value is not None and error is not None and math.isfinite(error) and error > 0
    ]
    if len(known) < 2:
        return None
    total = sum(1 / error**2 for _, error in known)
    mean = sum(value / error**2 for value, error in known) / total
    return float(chi2.sf(sum(((value - mean) / error) ** 2 for value, error in known), len(known) - 1))


def _settings(runs: Sequence[ComparedRun]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Leaves of the configurations, the data and the program that are not the same in all runs."""
    listed = []
    for run in runs:
        leaves = dict(_leaves(run.manifest.get("config", {})))
        leaves["data (SHA-256)"] = str(run.manifest.get("data_digest", ""))[:12] or None
        if run.results.method != leaves.get("correction.method"):  # corrected anew, by another method
            leaves["corrected by"] = run.results.method
        versions = {"bgdiff": run.results.bgdiff_version} | run.results.versions
        leaves |= {f"version of {name}": version for name, version in versions.items()}
        listed.append(leaves)
    for name in dict.fromkeys(name for leaves in listed for name in leaves):
        values = tuple(leaves.get(name) for leaves in listed)
        if any(value != values[0] for value in values):
            yield name, values


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _facts(run: ComparedRun) -> dict[str, Any]:
    results = run.results
    distance = run.distance("energy_w2")
    return {
        "name": run.name,
        "path": str(run.path),
        "method": results.method,
        "verdict": run.verdict,
        "n_samples": results.n_samples,
        "effective_fraction": results.independent_fraction,
        "ess_forward_rebalanced": results.ess_forward_rebalanced,
        "energy_w2": None
        if distance is None
        else dict(zip(("value", "value_std", "floor"), distance, strict=True)),
        "train_seconds": run.seconds("train"),
        "sample_seconds": run.seconds("sample"),
        "target_evaluations": results.target_evaluations,
        "effective_samples_per_evaluation": results.effective_samples_per_evaluation,
        "effective_samples_per_second": results.effective_samples_per_second,
    }
