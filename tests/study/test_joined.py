"""The page of claims from planted runs: what holds, what does not and what is off stand side by side."""

import json
import re

import pytest

from composer.core.errors import ComposerError
from composer.evaluation.judges.agreement import Agreement
from composer.evaluation.judges.ngram_judge import HeldOut
from composer.evaluation.prompts import DEVELOPMENT, REPORT, load_prompts, prompts_of
from composer.evaluation.verdicts import JudgeCard
from composer.study.design.claims import CHOSEN, ONE
from composer.study.joined import joined
from composer.study.run_record import RunRecord, StoredSetting
from composer.study.runs import StudyRun, trials
from composer.study.statistics.panels import panels
from tests.study.planted import PROMPTS, staged

SEEN = prompts_of(load_prompts(), REPORT)
ARMS = ("sum", "average", "contrast", "kl-paper", "single-sentiment", "single-topic")


def card(attribute, name, accuracy):
    return JudgeCard(attribute, f"{attribute} ({name})", (), (HeldOut("rows", 100, accuracy),))


JUDGES = [
    card(attribute, name, accuracy)
    for name, accuracy in (("word counts", 0.8), ("language model", 0.93))
    for attribute in ("sentiment", "topic")
]


def texts(prompts, **shares):
    """Each arm at strength 1 and as chosen, right with these probabilities."""
    found = []
    for salt, (name, share) in enumerate(shares.items()):
        arm = name.replace("_", "-")
        for setting, strength in ((ONE, 1.0), (CHOSEN, 0.75)):
            found += staged(
                arm,
                share,
                salt=salt,
                setting=setting,
                prompts=prompts,
                strength=strength,
                spread=9.0 + salt,
            )
    return tuple(found)


def run(first, second, precision="none", stage=REPORT, again=()):
    settings = tuple(
        StoredSetting(arm, name, {}, strength)
        for arm in dict.fromkeys(each.cell.arm for each in first)
        for name, strength in ((ONE, 1.0), (CHOSEN, 0.75))
    )
    prompts = tuple(dict.fromkeys(each.cell.prompt for each in first))
    cells = tuple(each.cell for each in first)
    record = RunRecord(
        stage,
        "a/base",
        "A base",
        precision,
        3,
        1,
        1,
        {},
        prompts,
        settings,
        cells,
        (),
        (),
        ("Made by hand.",),
    )
    agreements = {"topic": [Agreement("topic (word counts)", "topic (language model)", 0.9, 0.85)]}
    seated = tuple(panels(JUDGES, ["sentiment", "topic"]))
    return StudyRun(record, seated, (first, second), agreements, 0, 0, {"Cut short.": 2}, again)


PLANTED = dict(sum=0.8, average=0.3, contrast=0.8, kl_paper=0.05, single_sentiment=0.2, single_topic=0.2)


@pytest.fixture(scope="module")
def report():
    first = texts(PROMPTS, **PLANTED)
    # The other judges see no difference between sum and average.
    second = texts(PROMPTS, **{**PLANTED, "average": 0.8})
    return joined([run(first, second)])


def claims(report):
    return {claim["id"]: claim for claim in json.loads(report.json)["claims"]}


def test_the_most_accurate_judges_lead_and_the_others_have_a_say():
    names = [panel.name for panel in panels(JUDGES, ["sentiment", "topic"])]
    assert names == ["language model", "word counts"]
    lent = panels([*JUDGES, card("topic", "third", 0.5)], ["sentiment", "topic"])
    assert [panel.name for panel in lent] == ["language model", "word counts", "language model / third"]
    assert panels(JUDGES[:1], ["sentiment", "topic"]) == []


def test_verdicts_are_what_was_planted(report):
    found = claims(report)
    assert found["sum-average"]["verdict"] == "off"
    assert [test["verdict"] for test in found["sum-average"]["runs"][0]["tests"]] == ["holds", "undecided"]
    # At these, KL as published is far below the average, for both kinds of judges.
    assert found["kl-static"]["verdict"] == found["kl-static-chosen"]["verdict"] == "does not hold"
    assert found["contrast-sum-chosen"]["verdict"] == "undecided"
    assert "sum-nf4" not in found and "arrow-sum-chosen" not in found
    test = found["kl-static"]["runs"][0]["tests"][0]
    assert test["high"] < 0 and test["h"] < -0.5 and len(test["by_module_seed"]) == 3


def test_a_claim_that_failed_stands_in_the_same_table_as_one_that_held(report):
    rows = re.findall(r"^\| (\d+) \| (holds|does not hold|undecided|off) \| (.+?) \|", report.markdown, re.M)
    said = {sentence: verdict for _, verdict, sentence in rows}
    assert len(rows) == len(claims(report)) == len(said)
    details = re.findall(r"^\| (\d+) \| .+? \| (\w[\w ]+) \| .+ \| \d\.\d{3} \| ", report.markdown, re.M)
    assert details == [(number, verdict) for number, verdict, _ in rows]
    assert {"does not hold", "undecided", "off"} <= set(said.values())
    top = report.markdown.index("| no. | verdict | claim |")
    assert report.markdown.startswith("# Which way of composing works?\n\nOf ") and top < 1000
    counts = re.search(
        r"Of (\d+) claims.*? (\d+) do(?:es)? not hold, (\d+) (?:is|are) undecided, (\d+) (?:is|are) off",
        report.markdown,
    )
    assert int(counts[2]) == sum(verdict == "does not hold" for verdict in said.values())
    assert "topic (language model), 93.0% right on 100 rows" in report.markdown
    assert "on 90.0% (kappa 0.85)" in report.markdown


def test_tables_have_every_arm_and_each_training(report):
    [row] = [
        line for line in report.markdown.splitlines() if line.startswith("| Average of outputs | at 1 |")
    ]
    assert row.count("%") >= 4 and re.search(r"\d+% / \d+% / \d+%", row)
    answer = json.loads(report.json)
    assert {row["arm"] for row in answer["runs"][0]["arms"]} == set(ARMS)
    [own] = answer["runs"]
    assert own["base"] == "a/base" and "| Contrast |" in own["standings"]
    assert own["unfinished"] is None and own["patterns"] == [] and own["faults"] == {"Cut short.": 2}
    assert list(report.figures) == ["overview.svg", "fluency-1.svg"]
    assert "| 2 texts | - | Cut short. |" in report.markdown
    assert "| way | both right at 1 | perplexity | both right, fluent |" in report.markdown


def test_prompts_of_an_earlier_study_have_a_table_of_their_own():
    both = texts((*PROMPTS, *SEEN), **PLANTED)
    found = joined([run(both, both)])
    answer = json.loads(found.json)
    new, seen = ({c["id"]: c for c in answer[name]} for name in ("claims", "seen"))
    assert new["sum-average"]["runs"][0]["tests"][0]["prompts"] == len(PROMPTS)
    assert seen["sum-average"]["runs"][0]["tests"][0]["prompts"] == len(SEEN)
    assert "reported on before" in found.markdown
    only = joined([run(texts(SEEN, **PLANTED), texts(SEEN, **PLANTED))])
    assert "All prompts are of PPLM's 35" in only.markdown and json.loads(only.json)["seen"] == []


def test_a_claim_holds_at_all_only_where_it_holds_on_every_run():
    good = texts(PROMPTS, **PLANTED)
    none = texts(PROMPTS, **{**PLANTED, "average": 0.8})
    bad = texts(PROMPTS, **{**PLANTED, "average": 0.8, "sum": 0.3})
    one = run(good, good)
    assert claims(joined([one]))["sum-average"]["verdict"] == "holds"
    assert claims(joined([one, run(none, none, "nf4")]))["sum-average"]["verdict"] == "undecided"
    found = claims(joined([one, run(bad, bad, "nf4")]))
    assert found["sum-average"]["verdict"] == "does not hold" == found["sum-nf4"]["verdict"]
    mixed = joined([one, run(none, none, "nf4")])
    assert "| mean |" in mixed.markdown
    assert " | holds on A base, full; undecided on A base, nf4 |" in where(mixed, "averaging them,")
    assert " | holds on every base |" in where(joined([one, run(good, good, "nf4")]), "averaging them,")
    three = joined([one, run(good, good, "nf4"), run(none, none, "int8")])
    assert " | holds on all but A base, int8 (undecided) |" in where(three, "averaging them,")


def where(report, claim):
    """The claim's row in the summary."""
    return next(line for line in json.loads(report.json)["tables"]["summary"].splitlines() if claim in line)


def test_a_rerun_says_whether_the_numbers_are_the_same():
    good = texts(PROMPTS, **PLANTED)
    same = run(good, good, again=(good[::1], good))
    other = texts(PROMPTS, **{**PLANTED, "sum": 0.1})
    results = {each["claim"]: each["within"] for each in json.loads(joined([same]).json)["rerun"]}
    assert results and all(results.values())
    again = json.loads(joined([run(good, good, again=(other, other))]).json)["rerun"]
    assert not {each["claim"]: each["within"] for each in again}["sum-average"]


def test_without_a_run_nothing_is_claimed():
    report = joined([])
    assert "nothing is claimed" in report.markdown and not report.figures
    assert json.loads(report.json)["claims"] == json.loads(report.json)["runs"] == []


def test_development_runs_and_twice_the_same_are_refused():
    good = texts(PROMPTS, **PLANTED)
    with pytest.raises(ComposerError, match="is no report"):
        joined([run(good, good, stage=DEVELOPMENT)])
    with pytest.raises(ComposerError, match="leave one of them out"):
        joined([run(good, good), run(good, good)])


def test_trials_take_the_mean_of_the_judges_on_shared_places():
    half = texts(PROMPTS, sum=1.0), texts(PROMPTS, sum=0.0)
    [found] = trials(run(*half, stage=DEVELOPMENT))
    assert (found.arm, found.strength, found.control, found.perplexity) == ("sum", 0.75, 0.5, 9.0)
    assert found.texts == 90
