"""The figures: what is drawn, for numbers one can check by hand."""

import numpy as np
import pytest

from composer.core.results import Fusion
from composer.ui.components.plots import Series, contribution_figure, fusion_figure

SERIES = (Series("A", "#112233"), Series("<b>B</b>", "#445566"))
FUSION = Fusion(
    np.array([[0.0, 0.0], [3.0, 1.0], [0.5, 0.5]], np.float32),
    np.array([[0.5, 0.5], [0.75, 0.25], [0.5, 0.5]], np.float32),
)
TEXT = np.array([[[0.1, 0], [0.3, 0]], [[0.3, 0], [0.5, 0]]], np.float32)  # [T=2, L=2, N=2]


def traces(figure, kind):
    return [trace for trace in figure.data if trace.type == kind]


def test_fusion_draws_shares_and_divergences_per_adapter():
    figure = fusion_figure(FUSION, SERIES)
    bars, lines = traces(figure, "bar"), traces(figure, "scatter")
    assert [list(bar.y) for bar in bars] == [[0.5, 0.75, 0.5], [0.5, 0.25, 0.5]]
    assert [list(line.y) for line in lines] == [[0, 3, 0.5], [0, 1, 0.5]]
    assert list(bars[0].x) == [1, 2, 3]
    assert [bar.marker.color for bar in bars] == ["#112233", "#445566"]
    assert figure.layout.barmode == "stack"


def test_undecided_layers_are_hatched_and_named():
    figure = fusion_figure(FUSION, SERIES)
    assert list(traces(figure, "bar")[0].marker.pattern.shape) == ["/", "", ""]
    assert figure.layout.xaxis2.title.text == "layer (hatched: 1 undecided)"
    decided = fusion_figure(Fusion(FUSION.kl[1:], FUSION.alpha[1:]), SERIES)
    assert decided.layout.xaxis2.title.text == "layer"


@pytest.mark.parametrize(("dead", "words"), [([0, 1, 4], "1-2, 5"), ([2], "3"), ([0, 1, 2, 3, 4], "1-5")])
def test_runs_of_undecided_layers_are_written_short(dead, words):
    kl = np.ones((5, 2), np.float32)
    kl[dead] = 0
    figure = fusion_figure(Fusion(kl, np.full((5, 2), 0.5, np.float32)), SERIES)
    assert figure.layout.xaxis2.title.text == f"layer (hatched: {words} undecided)"


def test_contribution_is_the_mean_over_tokens_of_adapters_that_took_part():
    figure = contribution_figure(TEXT, SERIES)
    (line,) = figure.data
    np.testing.assert_allclose(line.y, [0.2, 0.4], rtol=1e-6)
    assert (line.name, line.line.color) == ("A", "#112233")
    np.testing.assert_allclose(line.customdata, [[0.12, 0.28], [0.32, 0.48]], rtol=1e-5)


@pytest.mark.parametrize("text", [np.zeros((3, 2, 2), np.float32), np.zeros((0, 2, 2), np.float32)])
def test_a_text_of_the_base_alone_says_so(text):
    figure = contribution_figure(text, SERIES)
    assert not figure.data
    assert "base wrote alone" in figure.layout.annotations[0].text


def test_a_label_cannot_bring_markup_into_a_figure():
    assert all("<" not in trace.name for trace in fusion_figure(FUSION, SERIES).data)


def test_a_legend_of_many_lines_leaves_the_plot_its_place():
    few, many = ([Series(str(i), "#123456") for i in range(count)] for count in (3, 12))
    shown = [
        fusion_figure(Fusion(np.ones((4, len(own))), np.ones((4, len(own))) / len(own)), own)
        for own in (few, many)
    ]
    assert [figure.layout.showlegend for figure in shown] == [True, False]


@pytest.mark.parametrize("figure", [fusion_figure(FUSION, SERIES), contribution_figure(TEXT, SERIES)])
def test_figures_suit_light_and_dark_and_stay_small(figure):
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert {trace.type for trace in figure.data} <= {"bar", "scatter"}
    assert len(figure.to_json()) < 6000
