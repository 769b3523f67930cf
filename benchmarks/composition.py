"""Product, mixture, tempering and negation of two planar densities: scores added, and sequential Monte Carlo.

Both densities are mixtures of normals, whose noised energies are known, so that nothing but the way of
sampling is compared. "Scores added" is the usual recipe: the noising process of a single model, backwards,
with the sum of the parts' scores (each times its exponent; for the mixture, its weight). SMC is
:func:`bgdiff.model_samples.sample_smc`. Distances to independent samples of the truth stand beside those of
the truth to itself.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.harness import Row, main
from bgdiff.analysis.style import COLOURS, WIDTH, save_figure, styled
from bgdiff.analysis.transport import transport_distance
from bgdiff.ladder.levels import noise_levels
from bgdiff.model_samples import sample_smc
from bgdiff.models import (
    Composition,
    RungTarget,
    log_density_and_score,
    mixture,
    negated,
    product,
    tempered,
)
from bgdiff.random import generator_for

_REACH, _CELL, _BINS = 3.2, 0.02, 32
_SAMPLES, _REPEATS, _STEPS = 1500, 3, 200
_RUNGS = 64
_METHODS = ("scores added", "SMC")
_LEGEND = """below each panel:
total variation and $W_2$
to samples of the truth,
in the top row
of the truth to itself;
contours: 1 % and 16 %
of the highest density"""


@dataclass(frozen=True)
class Case:
    """A composition, and what adding scores takes the scores times."""

    name: str
    label: str
    model: Composition
    factors: tuple[float, ...]


def densities() -> tuple["Spots", "Spots"]:
    """A ring and a bar, both thin on their left and wide on their right; the bar on a broad background.

    Without a background, p1 / p2^γ would be largest far away from the bar.
    """
    angle = torch.arange(32) * (2 * math.pi / 32)
    ring = 1.3 * torch.stack([angle.cos(), angle.sin()], 1)
    place = torch.linspace(-1.9, 1.9, 24)
    bar = torch.stack([place, 0.7 * torch.ones(24)], 1)
    first = Spots(ring, 0.22 + 0.12 * angle.cos(), torch.full((32,), 1 / 32))
    centres, widths = (
        torch.cat([bar, torch.zeros(1, 2)]),
        torch.cat([0.21 + 0.07 * place, torch.tensor([1.2])]),
    )
    return first, Spots(centres, widths, torch.cat([torch.full((24,), 0.9 / 24), torch.tensor([0.1])]))


def cases() -> list[Case]:
    one, two = densities()
    return [
        Case("product", r"product $p_1 p_2^{\,2}$", product(one, two, exponents=[1, 2]), (1.0, 2.0)),
        Case("mixture", r"mixture $\frac{1}{2}(p_1 + p_2)$", mixture(one, two), (0.5, 0.5)),
        Case("tempering", r"tempering $p_1^{\,3}$", tempered(one, 3.0), (3.0,)),
        Case("negation", r"negation $p_1 / p_2^{\,0.5}$", negated(one, two, 0.5), (1.0, -0.5)),
    ]


def measure(quick: bool, seed: int, folder: Path, console: Console) -> list[Row]:
    """One row per composition and method; samples of the first repeat are kept in the folder."""
    n, repeats, steps = (200, 2, 40) if quick else (_SAMPLES, _REPEATS, _STEPS)
    rungs = 10 if quick else _RUNGS
    rows: list[Row] = []
    kept: dict[str, Any] = {}
    for case in cases():
        console.print(f"{case.name} …")
        truth = Truth(case.model)
        reference = truth.sample(n, generator_for(seed, case.name, "reference")).numpy()
        floor = [
            _distances(truth.sample(n, generator_for(seed, case.name, "floor", r)).numpy(), None, reference)
            for r in range(repeats)
        ]
        outcomes: dict[str, list[Any]] = {method: [] for method in _METHODS}
        for repeat in range(repeats):
            stream = generator_for(seed, case.name, "added", repeat)
            start = time.process_time()
            z = scores_added(case, steps, n, stream).numpy()
            outcomes["scores added"].append((_distances(z, None, reference), time.process_time() - start, {}))
            start = time.process_time()
            found = sample_smc(
                case.model,
                n,
                target=RungTarget(case.model),
                n_rungs=rungs,
                seed=seed + repeat,
            )
            spent = time.process_time() - start
            log_z = found.log_z
            more = {
                "log Z error": log_z.value - truth.log_z,
                "z": log_z.z_score(truth.log_z),
                "effective fraction": found.ess,
            }
            outcomes["SMC"].append((_distances(found.z.numpy(), found.weights, reference), spent, more))
            if repeat == 0:
                kept[case.name] = np.stack([reference, z, found.resampled(seed=seed).numpy()])
        for method, results in outcomes.items():
            rows.append({"composition": f"{case.name}, {method}", **_row(results, floor)})
    np.savez(folder / "composition.npz", **kept)
    return rows


def scores_added(case: Case, steps: int, n: int, generator: torch.Generator) -> Tensor:
    """Walks down the parts' own noise levels with the sum of their scores, ``(n, 2)``; no weights."""
    sigma = noise_levels(steps, 0.02, 12.0)
    z = math.sqrt(1 + 12.0**2) * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    for k in range(steps - 1, -1, -1):
        variance = float(sigma[k + 1] ** 2 - sigma[k] ** 2)
        level = sigma[k + 1].reshape(1)
        scores = [log_density_and_score(part, z, level)[1] for part in case.model.parts]
        drift = sum(factor * score for factor, score in zip(case.factors, scores, strict=True))
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64) if k else 0.0
        z = z + variance * drift + math.sqrt(variance) * noise
    return z


class Spots:
    """A mixture of round normals in the plane, at all noise levels; quicker than one of any covariances.

    Args:
        centres: ``(m, 2)``.
        width: standard deviations ``(m,)``.
        weights: ``(m,)``, summing to 1.
    """

    def __init__(self, centres: Tensor, width: Tensor, weights: Tensor) -> None:
        self.centres, self.variance = centres.to(torch.float64), width.to(torch.float64) ** 2
        self.log_weights = weights.to(torch.float64).log()
        self.periodic = torch.zeros(2, dtype=torch.bool)

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return torch.logsumexp(self._logs(z, sigma), 1)

    def log_density_and_score(
        self, z: Tensor, sigma: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        logs = self._logs(z, sigma)
        pull = torch.softmax(logs, 1) / (self.variance + sigma[:, None] ** 2)
        return torch.logsumexp(logs, 1), pull @ self.centres - pull.sum(1, keepdim=True) * z

    def _logs(self, z: Tensor, sigma: Tensor) -> Tensor:
        variance = self.variance + sigma[:, None] ** 2
        square = torch.cdist(z, self.centres, compute_mode="donot_use_mm_for_euclid_dist").square()
        return self.log_weights - 0.5 * square / variance - torch.log(2 * math.pi * variance)


class Truth:
    """A composition at rung 0, on a grid of fine cells."""

    def __init__(self, model: Composition) -> None:
        line = torch.arange(-_REACH + _CELL / 2, _REACH, _CELL, dtype=torch.float64)
        self.points = torch.cartesian_prod(line, line)
        value = RungTarget(model).log_density(self.points)
        self.log_z = float(torch.logsumexp(value, 0)) + 2 * math.log(_CELL)
        self.share = torch.softmax(value, 0)

    @property
    def picture(self) -> NDArray[np.float64]:
        """The density, rows along y."""
        side = math.isqrt(len(self.share))
        found: NDArray[np.float64] = self.share.reshape(side, side).T.numpy() / _CELL**2
        return found

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n samples ``(n, 2)``, uniform in their cells."""
        rows = torch.multinomial(self.share, n, replacement=True, generator=generator)
        inside = torch.rand(n, 2, generator=generator, dtype=torch.float64) - 0.5
        return self.points[rows] + _CELL * inside


def tables(rows: list[Row]) -> Iterable[Table]:
    """Distances with their errors and floors."""
    table = Table("", "TV", "of truth", "W2", "of truth", "log Z error", "|z| ≤", "effective", "CPU s")
    for row in rows:
        cells = [f"{row[name]:.3f} ± {row[name + ', error']:.3f}" for name in ("TV", "W2")]
        known = row["log Z error"] is not None
        table.add_row(
            row["composition"],
            cells[0],
            f"{row['TV, truth']:.3f}",
            cells[1],
            f"{row['W2, truth']:.3f}",
            f"{row['log Z error']:+.4f}" if known else "",
            f"{row['largest |z|']:.1f}" if known else "",
            f"{row['effective fraction']:.2f}" if known else "",
            f"{row['CPU s']:.1f}",
        )
    return [table]


def draw(rows: list[Row], folder: Path, file: Path) -> None:
    """The figure of docs/composition.md."""
    with np.load(folder / "composition.npz") as stored:
        save_figure(_figure(rows, {name: stored[name] for name in stored.files}), file)


@styled
def _figure(rows: list[Row], samples: dict[str, NDArray[np.float64]]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    found = {row["composition"]: row for row in rows}
    extent = (-_REACH, _REACH, -_REACH, _REACH)
    blue = LinearSegmentedColormap.from_list("blue", ["white", COLOURS["data"]], N=64)
    figure = Figure(figsize=(WIDTH, 4.75), layout="constrained")
    shown = cases()
    axes = figure.subplots(3, 1 + len(shown), sharex=True, sharey=True)
    for axis, density, name in zip(axes[:2, 0], densities(), ("$p_1$", "$p_2$"), strict=True):
        picture = Truth(product(density)).picture
        axis.imshow(np.sqrt(picture), origin="lower", extent=extent, cmap=blue)
        axis.set_title(f"part {name}")
    axes[2, 0].axis("off")
    for column, case in zip(axes[:, 1:].T, shown, strict=True):
        picture = Truth(case.model).picture
        column[0].imshow(np.sqrt(picture), origin="lower", extent=extent, cmap=blue)
        column[0].set_title(case.label)
        floor = found[f"{case.name}, SMC"]
        column[0].set_xlabel(_caption(floor["TV, truth"], floor["W2, truth"]))
        colours = COLOURS["alarm"], COLOURS["reweighted"]
        for axis, method, points, colour in zip(
            column[1:], _METHODS, samples[case.name][1:], colours, strict=True
        ):
            axis.contour(
                np.sqrt(picture / picture.max()),
                levels=[0.1, 0.4],
                extent=extent,
                colors=COLOURS["muted"],
                linewidths=0.6,
            )
            axis.scatter(*points.T, s=1.2, color=colour, alpha=0.35, linewidths=0, rasterized=True)
            row = found[f"{case.name}, {method}"]
            axis.set_xlabel(_caption(row["TV"], row["W2"]))
    for axis in axes.flat:
        axis.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[-2, 0, 2], yticks=[-2, 0, 2], aspect="equal")
        axis.tick_params(labelbottom=False, labelleft=False)
    for axis in axes[:2, 0]:
        axis.tick_params(labelbottom=True, labelleft=True)
        axis.set(xlabel="$z_1$", ylabel="$z_2$")
    axes[2, 0].text(
        *(0.5, 0.5, _LEGEND), transform=axes[2, 0].transAxes, ha="center", va="center", fontsize=7
    )
    for axis, name in zip(axes[:, 1], ("truth", "scores added", "SMC"), strict=True):
        axis.set_ylabel(name)
    return figure


def _caption(tv: float, w2: float) -> str:
    return f"TV {tv:.2f}   $W_2$ {w2:.2f}"


def _distances(
    z: NDArray[np.float64], weights: NDArray[np.float64] | None, reference: NDArray[np.float64]
) -> tuple[float, float]:
    """Total variation of histograms with an overflow bin, and W2."""
    cost = np.square(z[:, None] - reference[None]).sum(-1)
    return _variation(z, weights, reference), transport_distance(cost, weights)


def _variation(
    z: NDArray[np.float64], weights: NDArray[np.float64] | None, reference: NDArray[np.float64]
) -> float:
    ends = [[-_REACH, _REACH]] * 2
    share = np.full(len(z), 1 / len(z)) if weights is None else weights
    ours = np.histogram2d(z[:, 0], z[:, 1], bins=_BINS, range=ends, weights=share)[0]
    theirs = np.histogram2d(reference[:, 0], reference[:, 1], bins=_BINS, range=ends)[0] / len(reference)
    return 0.5 * float(np.abs(ours - theirs).sum() + abs(ours.sum() - theirs.sum()))


def _row(results: Sequence[Any], floor: Sequence[tuple[float, float]]) -> Row:
    tv, w2 = (np.array([result[0][i] for result in results]) for i in (0, 1))
    ground = np.array(floor)
    row: Row = {
        "TV": float(tv.mean()),
        "TV, error": float(tv.std(ddof=1) / math.sqrt(len(tv))),
        "TV, truth": float(ground[:, 0].mean()),
        "W2": float(w2.mean()),
        "W2, error": float(w2.std(ddof=1) / math.sqrt(len(w2))),
        "W2, truth": float(ground[:, 1].mean()),
        "CPU s": float(np.mean([result[1] for result in results])),
    }
    for name in ("log Z error", "effective fraction"):
        values = [result[2][name] for result in results if result[2]]
        row[name] = float(np.mean(values)) if values else None
    scores = [result[2]["z"] for result in results if result[2]]
    row["largest |z|"] = float(np.abs(scores).max()) if scores else None
    return row


if __name__ == "__main__":
    main("composition", measure, __doc__ or "", tables, draw)
