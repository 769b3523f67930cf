"""Chains: what is drawn of them is what they did."""

import dataclasses

import matplotlib
import numpy as np
import pytest
from synthetic_run import chains

from bgdiff.analysis.chain_plots import chain_figures, chain_traces
from bgdiff.analysis.run_files import RunFiles, read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    directory = tmp_path_factory.mktemp("run")
    chains(directory, n_chains=10, length=60)
    return read_run(directory)


def test_traces_and_running_averages() -> None:
    value = np.random.default_rng(0).standard_normal((6, 50))
    figure = chain_traces(2 * value, value, trace_label="x", value_label="mean of x")
    *traces, average = figure.axes
    drawn = [np.asarray(ax.get_lines()[0].get_ydata()) for ax in traces]
    np.testing.assert_allclose(drawn, 2 * value[[0, 1, 3, 5]])
    lines = [line for line in average.get_lines() if len(line.get_xdata())]
    ends = [line.get_ydata()[-1] for line in lines]
    np.testing.assert_allclose(ends, [*value.mean(1), value.mean()])
    assert [line.get_xdata()[-1] for line in lines] == [50] * 7


@pytest.mark.parametrize(
    ("slowest", "label"),
    [("basin right", "population of right"), ("x", "x"), ("energy", "potential energy / kT")],
)
def test_the_slowest_quantity_is_followed(run: RunFiles, slowest: str, label: str) -> None:
    changed = dataclasses.replace(run, results=run.results.model_copy(update={"slowest": slowest}))
    (figure,) = chain_figures(changed)
    texts = [artist.get_text() for artist in figure.figure.findobj(matplotlib.text.Text)]
    assert label in texts
    if slowest == "basin right":
        end = [
            line.get_ydata()[-1] for line in figure.figure.axes[-1].get_lines() if line.get_xdata().size > 1
        ]
        assert end[-1] == pytest.approx((run.proposal["obs_x"] >= 0).mean())
        assert end[3] == pytest.approx((run.proposal["obs_x"][3::10] >= 0).mean())


def test_nothing_is_drawn_of_weighted_samples(run: RunFiles) -> None:
    weighted = dataclasses.replace(run, results=run.results.model_copy(update={"n_chains": 0}))
    assert not list(chain_figures(weighted))
