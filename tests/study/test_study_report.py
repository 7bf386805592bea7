"""The study's report: a planted effect can be read off it, a null is called one, figures hold the numbers."""

import re

import numpy as np
import pytest

from composer.core.document import DataTable, Heading, Paragraph, Picture, html, markdown
from composer.study.design.arms import ARMS
from composer.study.design.plan import Missing
from composer.study.reporting import figures
from composer.study.reporting.study_report import Findings, blocks
from composer.study.statistics.alpha_profile import AlphaProfile
from composer.study.statistics.permutation_test import follow
from composer.study.statistics.summary import PairInterference, by_kind, lines, parts
from tests.study.planted import arm, study


@pytest.fixture(scope="module")
def findings():
    kinds = study(sum=0.4, prompting=0.4, kl_unit=0.9, single_sentiment=0.1, single_topic=0.1)
    alpha = np.array([[0.4, 0.6], [0.3, 0.7]])
    yes = follow(np.eye(2)[[0] * 8 + [1] * 8], [0] * 8 + [1] * 8, 1000)
    no = follow(np.full((16, 2), 0.5), [0] * 8 + [1] * 8, 1000)
    return Findings(
        {each.name: each for each in ARMS},
        {kind: lines(arms) for kind, arms in kinds.items()},
        parts(kinds["pair"]),
        [AlphaProfile("topic", ("sports", "world"), alpha, alpha, yes, no, {"sports": yes}, 0.5)],
        [
            PairInterference("a+b", -0.1, 0.2),
            PairInterference("c+d", 0.1, 0.1),
            PairInterference("e+f", 0.3, 0.0),
        ],
        [Missing("logo", (), "there is no method called logo"), Missing(None, ("triple",), "no <M>")],
        {"The prompt | is too long.": 3},
        ("Made by hand.",),
    )


def test_the_report_separates_the_planted_effect_from_the_null(findings):
    told = markdown(blocks(findings))
    rows = {
        line.split(" | ")[0].strip("| "): line
        for line in reversed(told.split("## Sentiment x topic")[1].splitlines())
        if line.startswith("| ")
    }
    assert rows["KL (unit scale)"].count("excludes 0") == 2
    assert rows["Prompting"].count("includes 0") == 1
    assert re.search(
        r"\| topic, mean over layers \| 16 \| \+100.0 points \| 0.0\d+ \| follows the prompt \|", told
    )
    assert "| topic, last layer | 16 | +0.0 points | 1.0000 | not shown |" in told
    assert "Correlation over 3 pairs: -1.00" in told and "| a+b | -0.1000 | +20.0 points |" in told
    assert "| LoGo | all | there is no method called logo |" in told
    assert (
        "| every arm | triple | no &lt;M> |" in told
        and "| 3 texts | - | The prompt \\| is too long. |" in told
    )
    assert "chosen on one half" in told and told.rstrip().endswith("Made by hand.")


def test_the_page_is_one_file_with_the_library_once(findings):
    page = html("A <title>", blocks(findings), figures.draw)
    assert "<title>A &lt;title&gt;</title>" in page and page.count("<figure>") == 4
    assert page.count("plotly.js v") == 1 and not re.search(r"<(script|link)[^>]+(src|href)=", page)
    assert len(page) < 6_000_000


def test_figures_hold_the_numbers(findings):
    arms = {each.name: each for each in ARMS}
    own = findings.lines["pair"]
    [curve] = [each for each in figures.strength_figure(own, arms).data if each.name == "KL (unit scale)"]
    kl = next(line for line in own if line.arm == "kl-unit")
    assert list(curve.x) == [1, 1.5]
    assert curve.y[0] == kl.one.control.value
    assert curve.y[0] - curve.error_y.arrayminus[0] == pytest.approx(kl.one.control.low)
    assert all(list(each.x) == [10, 10] for each in figures.fluency_figure(own, arms).data)
    assert len(figures.pattern_figure(findings.patterns).data) == 4
    assert list(figures.clash_figure(findings.clashes).data[0].y) == [0.2, 0.1, 0.0]


def test_blocks_are_escaped_for_where_they_go():
    shown = [
        Heading("<b>"),
        Paragraph("a\nb <i>"),
        DataTable(("x", "y"), (("<td>", "1|2"),)),
        Picture("F", "seen"),
    ]
    assert markdown(shown) == (
        "## &lt;b>\n\na b &lt;i>\n\n| x | y |\n|---|---:|\n| &lt;td> | 1\\|2 |\n\n"
        "*seen (Drawn in report.html.)*\n"
    )
    page = html("t", shown, lambda figure, first: f"[{figure} {first}]")
    assert "<h2>&lt;b&gt;</h2>" in page and "<td class=words>&lt;td&gt;</td><td>1|2</td>" in page
    assert "[F True]<figcaption>seen" in page


def test_a_figure_has_the_rivals_and_the_best_of_each_family_in_colour():
    arms = {each.name: each for each in ARMS}
    shares = {"prompting": 0.2, "sum": 0.5, "average": 0.3, "balanced": 0.7, "kl-unit": 0.4, "cosine": 0.6}
    wild = arm("logo", 0.95, salt=9, spread=80.0)
    alone = arm("single-topic", 0.1, salt=8)
    texts = [
        each for salt, (name, share) in enumerate(shares.items()) for each in arm(name, share, salt=salt)
    ]
    own = lines(by_kind([*wild, *alone, *texts])["pair"])
    leads = figures.leading(own, arms)
    # LoGo has most of its family, but at no strength the language.
    assert set(leads) == {"prompting", "sum", "balanced", "cosine", "single-topic"}
    drawn = figures.fluency_figure(own, arms).data
    shown = [each.name for each in drawn if each.showlegend]
    assert set(shown) == {arms[name].label for name in leads}
    assert [each.name for each in drawn][-len(shown) :] == shown  # over the grey ones
    assert len({each.line.color for each in drawn if each.name in shown}) == len(shown)
