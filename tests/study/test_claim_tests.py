"""From judged texts with a known answer to verdicts on claims."""

import math

import pytest

from composer.study.design.arms import all_arms
from composer.study.design.claims import CHOSEN, CLAIMS, ONE, PERPLEXITY, TOPIC, Claim
from composer.study.design.tuning import MAIN, REFERENCES
from composer.study.statistics.claim_tests import (
    FAILS,
    HOLDS,
    OFF,
    UNDECIDED,
    Judged,
    cohens_h,
    overall,
    run_tests,
    settle,
)
from tests.study.planted import PROMPTS, outcome, staged

MORE = Claim("more", "One beats the other.", "kl-unit", "sum", "here")


def verdicts_on(claims, outcomes, precision="none", others=()):
    return run_tests(claims, Judged("base", precision, outcomes), others)


def test_the_list_of_claims_names_arms_that_the_report_has():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS) and all(claim.source for claim in CLAIMS)
    assert {*MAIN, *REFERENCES} <= set(all_arms())
    for claim in CLAIMS:
        assert {claim.left, claim.right} <= {*MAIN, *REFERENCES}
        # The references are generated at strength 1 alone.
        assert claim.at == ONE or not {claim.left, claim.right} & set(REFERENCES)


def test_a_planted_claim_holds_its_opposite_does_not_and_a_null_is_undecided():
    texts = [*staged("sum", 0.4, salt=1), *staged("kl-unit", 0.8, salt=2), *staged("arrow", 0.4, salt=3)]
    less = Claim("less", "It loses.", "kl-unit", "sum", "here", higher=False)
    null = Claim("null", "Arrow beats the sum.", "arrow", "sum", "here")
    found = verdicts_on([MORE, less, null], texts)
    assert {name: each.verdict for name, each in found.items()} == {
        "more": HOLDS,
        "less": FAILS,
        "null": UNDECIDED,
    }
    more = found["more"]
    assert more.texts == 90 and more.found.module_seeds == 3
    assert more.left - more.right == pytest.approx(more.found.value)
    assert more.adjusted == pytest.approx(3 * more.p) and more.adjusted < 0.05


def test_a_claim_needs_every_training_on_its_side():
    one = [*staged("sum", 0.1, salt=1), *staged("kl-unit", 0.9, salt=2)]
    turned = [
        outcome(each.cell.arm == "sum", each.cell.prompt, each.cell.arm, module_seed=2, setting=ONE)
        if each.cell.module_seed == 2 and int(each.cell.prompt.split()[1]) < 18
        else each
        for each in one
    ]
    found = verdicts_on([MORE], turned)["more"]
    assert verdicts_on([MORE], one)["more"].verdict == HOLDS
    assert found.found.by_module_seed[2] < 0 < found.found.value and found.verdict == UNDECIDED


def test_a_few_prompts_decide_nothing():
    texts = [
        outcome(name == "kl-unit", prompt, name, setting=ONE)
        for prompt in PROMPTS[:10]
        for name in ("sum", "kl-unit")
    ]
    assert verdicts_on([MORE], texts)["more"].verdict == HOLDS
    assert verdicts_on([MORE], texts[:-2])["more"].verdict == UNDECIDED


def test_holm_takes_a_claim_back_that_is_one_of_many():
    texts = [*staged("sum", 0.45, salt=10), *staged("kl-unit", 0.62, salt=8)]
    one = verdicts_on([MORE], texts)["more"]
    assert one.verdict == HOLDS and 0.001 < one.p < 0.05
    many = [MORE, *(Claim(f"c{i}", "", "kl-unit", "sum", "here") for i in range(60))]
    assert verdicts_on(many, texts)["more"].verdict == UNDECIDED


def test_a_claim_of_as_often_as_allows_what_it_says():
    right = [outcome((True, place < 28), prompt, setting=ONE) for place, prompt in enumerate(PROMPTS)]
    alone = [outcome((False, True), prompt, "single-topic", setting=ONE) for prompt in PROMPTS]
    texts = [*right, *alone]
    strict, loose = (Claim(str(b), "", "sum", "single-topic", "", TOPIC, bound=b) for b in (-0.03, -0.3))
    found = verdicts_on([strict, loose], texts)
    assert found["-0.3"].verdict == HOLDS and found["-0.03"].verdict == UNDECIDED
    assert found["-0.3"].found.value == pytest.approx(-2 / 30)


def test_perplexities_are_compared_as_ratios_and_unscored_texts_left_out():
    claim = Claim("fluent", "", "kl-unit", "sum", "", PERPLEXITY, higher=False)
    left = [outcome(True, prompt, "kl-unit", setting=ONE, spread=5.0) for prompt in PROMPTS]
    right = [outcome(True, prompt, setting=ONE, spread=10.0) for prompt in PROMPTS[:20]]
    unscored = [outcome(True, prompt, setting=ONE, spread=None) for prompt in PROMPTS[20:]]
    found = verdicts_on([claim], [*left, *right, *unscored])["fluent"]
    assert found.verdict == HOLDS and found.texts == 20
    assert math.exp(found.found.value) == pytest.approx(0.5)
    assert (found.left, found.right) == (pytest.approx(5), pytest.approx(10))


def test_settings_are_not_mixed_and_a_claim_without_texts_is_left_out():
    texts = [*staged("sum", 0.5, salt=1, setting=CHOSEN), *staged("kl-unit", 0.5, salt=2)]
    assert verdicts_on([MORE, Claim("chosen", "", "sum", "kl-unit", "", at=CHOSEN)], texts) == {}


def test_quantised_and_full_are_compared_on_the_same_base():
    [claim] = [claim for claim in CLAIMS if claim.precisions]
    four, full = staged("sum", 0.8, salt=1), staged("sum", 0.8, salt=1)
    others = [Judged("other", "none", staged("sum", 0.0, salt=1)), Judged("base", "none", full)]
    found = verdicts_on([claim], four, "nf4", others)[claim.id]
    assert found.found.value == 0 and found.verdict == HOLDS
    assert verdicts_on([claim], full, "none", others) == {} and verdicts_on([claim], four, "nf4") == {}


def test_judges_that_disagree_take_a_claim_off():
    assert settle([HOLDS, HOLDS]) == HOLDS and settle([FAILS]) == FAILS
    assert settle([HOLDS, UNDECIDED]) == settle([FAILS, HOLDS]) == OFF
    assert settle([FAILS, UNDECIDED]) == UNDECIDED


def test_a_claim_holds_at_all_where_it_holds_on_every_base():
    assert overall([HOLDS, HOLDS]) == HOLDS and overall([HOLDS, UNDECIDED]) == UNDECIDED
    assert overall([HOLDS, FAILS, OFF]) == FAILS and overall([HOLDS, OFF]) == OFF


def test_cohens_h_is_that_of_the_book():
    assert cohens_h(0.65, 0.45) == pytest.approx(0.404, abs=0.002)
    assert cohens_h(0.3, 0.3) == 0 and cohens_h(1, 0) == pytest.approx(math.pi)
