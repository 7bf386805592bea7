"""From judged texts with a known answer to the report's claims: a planted effect is found, a null is not."""

from collections import Counter

import numpy as np
import pytest

from composer.core.errors import ComposerError
from composer.evaluation.generation import GeneratedText, Score
from composer.evaluation.store import Store
from composer.study.design.plan import Cell
from composer.study.statistics.alpha_profile import OWN, load_own
from composer.study.statistics.comparison import Interval, best, control, difference
from composer.study.statistics.judge_scores import outcomes
from composer.study.statistics.permutation_test import follow, follow_each
from composer.study.statistics.summary import PairInterference, by_kind, clashes, lines, parts
from tests.study.planted import PAIR, PROMPTS, TARGETS, arm, outcome, study

# --- intervals -----------------------------------------------------------------------------------


def test_an_interval_excludes_zero_or_does_not():
    assert Interval(0.1, 0.01, 0.2).excludes_zero and Interval(-0.1, -0.2, -0.01).excludes_zero
    assert not Interval(0.1, 0.0, 0.2).excludes_zero and not Interval(0.0, 0.0, 0.0).excludes_zero


def test_control_is_the_share_of_texts_that_have_all_that_is_wanted():
    mixed = [outcome((True, True)), outcome((True, False), seed=1)]
    assert control(mixed) == Interval(0.5, 0.5, 0.5)  # one prompt: nothing to draw
    assert control(mixed, lambda each: each.parts["sentiment"]).value == 1
    assert control([]) is None


def test_a_difference_is_paired_and_takes_only_what_both_have():
    # Prompts differ wildly, the arms by one text in three of each prompt: pairing sees exactly that.
    ours = [
        outcome(place % 2 == 0 or seed == 0, p, "a", seed=seed)
        for place, p in enumerate(PROMPTS)
        for seed in range(3)
    ]
    reference = [
        outcome(place % 2 == 0, p, "b", seed=seed) for place, p in enumerate(PROMPTS) for seed in range(3)
    ]
    found = difference(ours, reference)
    assert found.value == pytest.approx(1 / 6) and found.excludes_zero
    assert difference(ours[:3], reference[3:]) is None
    assert difference(ours, [*reference[:3], outcome(True, "elsewhere")]).value == 0


def test_a_planted_difference_is_found_and_a_null_is_not():
    weak = arm("sum", 0.4, salt=1)
    assert difference(arm("kl-unit", 0.8, salt=2), weak).excludes_zero
    null = [difference(arm("a", 0.5, salt=100 + i), arm("b", 0.5, salt=500 + i)) for i in range(60)]
    assert (
        sum(each.excludes_zero for each in null) <= 9
    )  # 5% of 60 is 3; a bootstrap of 30 prompts is a bit eager


# --- the best strength ---------------------------------------------------------------------------


def test_the_best_strength_is_reported_on_prompts_that_did_not_choose_it():
    even, odd = PROMPTS[0::2], PROMPTS[1::2]
    arms = {
        0.5: [outcome(prompt in even, prompt, strength=0.5) for prompt in PROMPTS],
        1.5: [outcome(prompt in odd, prompt, strength=1.5) for prompt in PROMPTS],
    }
    found = best(arms, None)
    # The even half would choose 0.5 and looks best there, but is reported at the odd half's choice.
    assert found.strengths == (1.5, 0.5)
    assert control(found.outcomes).value == 0 and len(found.outcomes) == 30


def test_noise_is_not_made_into_an_effect_by_choosing():
    gains = []
    for salt in range(30):
        arms = {
            s: arm("sum", 0.5, salt=int(1000 * salt + 10 * s), strength=s)
            for s in (0.5, 0.75, 1.0, 1.25, 1.5)
        }
        greedy = max(control(own).value for own in arms.values())
        gains.append((control(best(arms, None).outcomes).value - 0.5, greedy - 0.5))
    honest, greedy = np.mean(gains, axis=0)
    assert abs(honest) < 0.02 < greedy


def test_a_strength_that_breaks_the_language_is_not_best():
    arms = {1.0: arm("sum", 0.5, salt=1), 1.5: arm("sum", 1.0, salt=2, strength=1.5, spread=100.0)}
    assert best(arms, 15.0).strengths == (1.0, 1.0)
    assert best(arms, None).strengths == (1.5, 1.5)
    assert best(arms, 15.0).fluent and not best(arms, 5.0).fluent
    assert best(arms, 5.0).strengths == (1.0, 1.0)  # none is fluent: the least bad
    assert best({1.0: [outcome(True)]}, None) is None


def test_a_strength_is_not_best_for_having_been_tried_on_easier_prompts():
    # At 0.5 only the four easy prompts were tried; on those 1 is right as often, and has hard ones besides.
    easy, hard = PROMPTS[:4], PROMPTS[4:]
    arms = {
        0.5: [outcome(True, prompt, strength=0.5) for prompt in easy],
        1.0: [outcome(True, prompt) for prompt in easy] + [outcome(False, prompt) for prompt in hard],
    }
    found = best(arms, None)
    assert found.strengths == (1.0, 1.0)
    assert {each.cell.prompt for each in found.outcomes} == set(easy)
    assert best({0.5: arms[0.5], 1.0: arms[1.0][4:]}, None) is None  # they share no prompt


def test_texts_that_were_not_scored_are_not_taken_for_fluent_ones():
    arms = {1.0: arm("sum", 0.5, salt=1), 1.5: arm("sum", 1.0, salt=2, strength=1.5, spread=None)}
    assert best(arms, 15.0).strengths == (1.0, 1.0) and best(arms, 15.0).fluent


def test_equals_are_settled_by_the_nearest_to_one():
    arms = {s: arm("sum", 1.0, salt=1, strength=s) for s in (0.5, 1.25)}
    assert best(arms, None).strengths == (1.25, 1.25)


# --- tables --------------------------------------------------------------------------------------


def test_a_line_compares_with_both_rivals_at_one_and_at_the_best():
    kinds = study(sum=0.4, prompting=0.3, kl_unit=0.9)
    by_arm = {line.arm: line for line in lines(kinds["pair"])}
    kl = by_arm["kl-unit"]
    assert set(kl.one.beside) == {"sum", "prompting"} and set(by_arm["sum"].one.beside) == {"prompting"}
    assert kl.one.beside["sum"].excludes_zero and kl.best.beside["sum"].excludes_zero
    assert kl.strengths == (1.0,) and kl.one.texts == 90 and kl.one.perplexity == 10
    assert list(kl.sweep) == [1.0, 1.5] and kl.sweep[1.5][0].value < kl.sweep[1.0][0].value


def test_only_who_was_tried_at_all_strengths_has_a_best_one():
    texts = arm("sum", 0.5, salt=1) + arm("sum", 0.5, salt=2, strength=0.5) + arm("logo", 0.6, salt=3)
    by_arm = {line.arm: line for line in lines(by_kind(texts)["pair"])}
    assert by_arm["sum"].best and by_arm["logo"].one and not by_arm["logo"].best
    # Alone at strength 1 there is nothing to choose from, and 1 is everybody's best.
    assert all(line.best for line in lines(by_kind(arm("sum", 0.5, salt=1))["pair"]))


def test_curves_and_the_bound_are_of_the_texts_that_all_strengths_have():
    easy, hard = PROMPTS[:6], PROMPTS[6:]
    texts = []
    for name in ("sum", "single-topic"):
        texts += arm(name, 1.0, salt=1, prompts=easy) + arm(name, 0.0, salt=2, prompts=hard, spread=90.0)
        texts += arm(name, 0.5, salt=3, prompts=easy, strength=1.5, spread=12.0)
    by_arm = {line.arm: line for line in lines(by_kind(texts)["pair"])}
    assert by_arm["sum"].one.control.value == pytest.approx(0.2) and by_arm["sum"].one.perplexity == 90
    assert by_arm["sum"].sweep[1.0] == (Interval(1.0, 1.0, 1.0), 10.0)
    assert by_arm["sum"].fluent and by_arm["sum"].best.perplexity == 10  # the bound is 15, not 135


def test_what_is_the_module_itself_is_not_listed_for_one_attribute():
    target = TARGETS["positive"]
    own = [
        outcome(True, arm=name, target=target, key="same") for name in ("single-sentiment", "sum", "kl-unit")
    ]
    contrast = outcome(True, arm="contrast-1", target=target)
    assert set(by_kind([*own, contrast])["sentiment"]) == {"single-sentiment", "sum", "contrast-1"}


def test_each_attribute_is_compared_with_its_module_alone():
    texts = []
    for prompt in PROMPTS:
        texts += [
            outcome((True, False), prompt, "single-sentiment"),
            outcome((False, True), prompt, "single-topic"),
        ]
        texts.append(outcome((True, prompt in PROMPTS[:24]), prompt, "sum"))
    kinds = by_kind(texts)
    found = {(part.arm, part.attribute): part for part in parts(kinds["pair"])}
    assert found["sum", "sentiment"].change == Interval(0, 0, 0)
    assert (
        found["sum", "topic"].change.value == pytest.approx(-0.2)
        and found["sum", "topic"].change.excludes_zero
    )
    [clash] = clashes(kinds["pair"], lambda one, two: {("positive", "sports"): 0.25}[one, two])
    assert clash == PairInterference("positive+sports", 0.25, pytest.approx(0.1))


# --- judging -------------------------------------------------------------------------------------


class Says:
    """A judge that reads its answer off the text."""

    def __init__(self, attribute, name, word):
        self.attribute, self.name, self.word, self.read = attribute, name, word, 0

    def __call__(self, texts):
        self.read += len(texts)
        return [self.word if "yes" in text else "other" for text in texts]


def test_judges_read_each_text_once_and_a_majority_decides(tmp_path):
    store = Store(tmp_path)
    made = [
        GeneratedText("yes", "p", 0, {}, " yes"),
        GeneratedText("no", "p", 1, {}, " no"),
        GeneratedText("bad", "p", 2, {}, fault="Cut."),
    ]
    store.run_pending([], lambda *_: [*made, Score("yes", 2.0)])
    cells = [
        Cell(name, PAIR, 1.0, "p", 0, key) for name in ("a", "b") for key in ("yes", "no", "bad", "never")
    ]
    judges = [Says("sentiment", "one", "positive"), Says("topic", "two", "sports")]
    found = outcomes(cells, store, judges)
    assert [(each.cell.arm, each.cell.key, each.right) for each in found] == [
        ("a", "yes", True), ("a", "no", False), ("b", "yes", True), ("b", "no", False)
    ]  # fmt: skip
    assert found[0].perplexity == 2 and found[1].perplexity is None and judges[0].read == 2
    assert found[0].repetition is None  # one word has no 4-gram
    split = outcomes(cells, store, [*judges, Says("topic", "three", "world")])
    assert not any(each.right for each in split) and split[0].parts == {"sentiment": True, "topic": False}
    assert outcomes([], store, judges) == []


# --- does alpha follow the prompt? ---------------------------------------------------------------


def test_the_permutation_test_separates_alpha_that_follows_the_prompt():
    random = np.random.default_rng(0)
    owners = np.repeat([0, 1, 2], 8)
    noise = random.dirichlet([5, 5, 5], 24)  # [P, N]
    planted = noise + 0.2 * np.eye(3)[owners]
    found = follow(planted, owners)
    assert found.follows and found.p < 0.001 and found.prompts == 24
    direct = np.mean([planted[owners == i, i].mean() - planted[owners != i, i].mean() for i in range(3)])
    assert found.gain == pytest.approx(direct)
    # A loud adapter takes most of alpha whatever the prompt: that is not following.
    loud = noise + np.array([5.0, 0, 0])
    assert not follow(loud, owners).follows
    values = [follow(random.dirichlet([5, 5, 5], 24), owners, 500).p for _ in range(60)]
    assert sum(p < 0.05 for p in values) <= 9 and np.mean(values) == pytest.approx(0.5, abs=0.13)


def test_the_test_is_exact_on_a_case_counted_by_hand():
    # Four prompts, two owners: 6 ways to deal them out, the true one alone is this good.
    alpha = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]])
    found = follow(alpha, [0, 0, 1, 1], draws=20_000)
    assert found.gain == pytest.approx(0.7) and found.p == pytest.approx(1 / 6, abs=0.01)
    assert follow(np.full((4, 2), 0.5), [0, 0, 1, 1]).p == 1  # nothing to tell
    with pytest.raises(ValueError, match="two adapters"):
        follow(alpha, [0, 0, 0, 0])


def test_each_adapter_is_tested_by_itself():
    alpha = np.tile([0.5, 0.5], (16, 1)) + np.where(np.arange(16)[:, None] < 8, [0.3, 0.0], 0.0)
    found = follow_each(alpha, [0] * 8 + [1] * 8)
    assert found[0].gain == pytest.approx(0.3) and found[0].follows and found[0].prompts == 8
    assert found[1].gain == 0 and not found[1].follows


def test_every_adapter_of_the_project_has_prompts_of_its_own(tmp_path):
    counts = Counter(name for name, _ in load_own())
    assert set(counts) == {"positive", "negative", "world", "sports", "business", "sci-tech"}
    assert set(counts.values()) == {8} and len({prompt for _, prompt in load_own(OWN)}) == 48
    (tmp_path / "own.tsv").write_text("sports The coach\n")
    with pytest.raises(ComposerError, match="a tab"):
        load_own(tmp_path / "own.tsv")
    with pytest.raises(ComposerError, match="cannot be read"):
        load_own(tmp_path / "none.tsv")
