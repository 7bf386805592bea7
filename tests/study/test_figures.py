"""The figures: they hold the numbers, and who is in colour is who leads."""

import re
from xml.etree import ElementTree

import numpy as np

from composer.core.document import DataTable, Heading, Paragraph, Picture, html, markdown
from composer.study.design.arms import all_arms
from composer.study.design.claims import CHOSEN, ONE
from composer.study.reporting import figures
from composer.study.reporting.charts import Panel, Series, svg
from composer.study.statistics.alpha_profile import AlphaProfile
from composer.study.statistics.permutation_test import PermutationResult
from tests.study.test_leaderboard import row

ARMS = all_arms()
SVG = "{http://www.w3.org/2000/svg}"


def drawn(text):
    """Label -> its points in pixels, in the order in which they are drawn; and the legend's names."""
    root = ElementTree.fromstring(text)
    lines = {
        group.find(f"{SVG}title").text: [
            tuple(map(float, point.split(",")))
            for point in group.find(f"{SVG}polyline").get("points").split()
        ]
        for group in root.iter(f"{SVG}g")
    }
    return lines, [each.text for each in root.iter(f"{SVG}text")]


def test_points_are_at_their_values():
    lines, words = drawn(
        svg(
            [
                Panel("", "x", (Series("a", ((10.0, 0.0), (20.0, 0.5), (40.0, 1.0)), "#000"),), log=True),
                Panel("", "layer", (Series("b", ((1, 0.2), (2, 0.2), (3, 0.2)), "#000"),), level=0.5),
            ]
        )
    )
    (x0, y0), (x1, y1), (x2, y2) = lines["a"]
    assert round(x1 - x0, 1) == round(x2 - x1, 1) and y0 - y1 == y1 - y2 > 0  # doublings are equally far
    (left, *_), (middle, *_), (right, *_) = lines["b"]
    assert round(middle - left, 1) == round(right - middle, 1)
    assert {"a", "b", "x", "layer", "0%", "100%", "20%", "10", "30", "3"} <= set(words)


def test_a_figure_without_points_says_so_and_names_are_escaped():
    assert "nothing measured" in svg([Panel("", "x", ())])
    lines, words = drawn(svg([Panel("", "x", (Series("<a> & b", ((1, 0.5),), "#000"),))]))
    assert list(lines) == ["<a> & b"] and "<a> & b" in words


def test_the_fluency_figure_has_the_baselines_and_the_best_of_each_family_in_colour():
    rows = [
        row("sum", ONE, 0.5, 20.0),
        row("sum", CHOSEN, 0.4, 10.0, strength=0.5),
        row("prompting", ONE, 0.2),
        row("average", ONE, 0.3, 8.0),
        row("balanced", CHOSEN, 0.7, 11.0),
        row("cosine", CHOSEN, 0.6, 10.0),
        row("kl-unit", CHOSEN, 0.4, 10.0),
        row("logo", CHOSEN, 0.95, 80.0, fluent=False),
        row("ties", ONE, 0.5, None),
    ]
    # LoGo has most of its family, but not the language.
    assert figures.leading(rows, ARMS) == ("sum", "prompting", "balanced", "cosine", "ties")
    text = figures.fluency_figure(rows, ARMS)
    lines, words = drawn(text)
    assert len(lines["Sum of outputs"]) == 2 and lines["Sum of outputs"][0][0] > lines["Sum of outputs"][1][0]
    assert text.count('fill="none" stroke-width="1.2"') == 3  # at strength 1
    assert "TIES" not in lines and "TIES" not in words  # no perplexity
    assert "Cosine fusion" in words and "LoGo (norms)" in lines and "LoGo (norms)" not in words
    assert list(lines)[-4:] == ["Sum of outputs", "Prompting", "Norm-balanced sum", "Cosine fusion"]


def test_the_overview_has_a_dot_where_fluent_a_ring_where_not_and_the_best_in_colour():
    one = [row("sum", ONE, 0.5, 20.0), row("sum", CHOSEN, 0.4), row("ties", CHOSEN, 0.7)]
    other = [row("sum", ONE, 0.3), row("ties", ONE, 0.9, 60.0, fluent=False), row("logo", CHOSEN, 0.2)]
    root = ElementTree.fromstring(figures.overview_figure({"One": one, "Other": other}, ARMS))
    words = [each.text for each in root.iter(f"{SVG}text")]
    # Ways that read fluently wherever they were tried come first.
    assert words[:3] == ["LoGo (norms)", "TIES", "Sum of outputs"]
    assert [each for each in words if each.endswith("%") and each not in ("0%", "50%", "100%")] == [
        *("70%", "40%"),
        *("20%", "90%", "30%"),
    ]
    dots = list(root.iter(f"{SVG}circle"))
    assert [each.get("fill") == "none" for each in dots] == [False, False, False, True, True]
    assert [each.get("stroke") == figures.COLORS[0] for each in dots] == [True, False, True, False, False]
    [ties, total, *_] = [float(each.get("cx")) for each in dots]
    assert ties - total == 0.3 * 150
    dashed = [float(each.get("x1")) for each in root.iter(f"{SVG}line") if each.get("stroke-dasharray")]
    assert dashed == [total, float(dots[4].get("cx"))]


def test_alpha_is_drawn_by_layer_and_what_is_not_there_is_left_out():
    test = PermutationResult(0.1, 0.01, 8)
    alpha, own = np.array([[0.4, 0.6], [0.3, 0.7]]), np.array([[0.5, np.nan], [0.4, np.nan]])
    profile = AlphaProfile("topic", ("sports", "world"), alpha, own, test, test, {}, None)
    text = figures.pattern_figure([profile, profile])
    lines, words = drawn(text)
    assert set(lines) == {"sports", "world", "sports, own prompts"} and len(lines["world"]) == 2
    assert words.count("topic: fusion weight") == 2 and len(re.findall("<polyline", text)) == 6


def test_blocks_are_escaped_for_where_they_go():
    shown = [
        Heading("<b>"),
        Paragraph("a\nb <i>"),
        DataTable(("x", "y"), (("<td>", "1|2"),)),
        Picture("F", "seen"),
        Picture("F", "kept", "f.svg"),
    ]
    assert markdown(shown) == (
        "## &lt;b>\n\na b &lt;i>\n\n| x | y |\n|---|---:|\n| &lt;td> | 1\\|2 |\n\n"
        "*seen*\n\n![kept](f.svg)\n\n*kept*\n"
    )
    page = html("t", shown, lambda figure, first: f"[{figure} {first}]")
    assert "<h2>&lt;b&gt;</h2>" in page and "<td class=words>&lt;td&gt;</td><td>1|2</td>" in page
    assert "[F True]<figcaption>seen" in page
