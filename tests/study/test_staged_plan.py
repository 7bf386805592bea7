"""A stage's plan: settings, targets spread over prompts, and texts that module seeds share or do not."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from composer.core.catalog_types import Attribute
from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.evaluation.prompts import DEVELOPMENT, REPORT, load_prompts, prompts_of
from composer.methods import METHODS
from composer.study.design.arms import all_arms
from composer.study.design.choices import Choice, Choices
from composer.study.design.claims import CHOSEN, ONE
from composer.study.design.plan import StudyContext
from composer.study.design.staged_plan import FRESH, assigned, sampling_seed, staged_plan
from composer.study.design.targets import all_targets
from composer.study.design.tuning import (
    MAIN,
    MAIN_ARMS,
    REFERENCES,
    STRENGTHS,
    develop_settings,
    report_settings,
    staged_arms,
    variants,
    with_constants,
)
from composer.study.run_record import RunRecord, StoredSetting
from composer.study.staged import StageConfig, drawn_places

ROOT = Path(__file__).parents[2]
SAMPLING = Sampling(max_new_tokens=6)
GROUPS = (
    Attribute("sentiment", "Sentiment", ("negative", "positive"), ("negative", "positive")),
    Attribute("topic", "Topic", ("world", "sports", "business", "sci-tech")),
)
PAIRS = all_targets(GROUPS)
PROMPTS = prompts_of(load_prompts(), REPORT)
NAMES = (*GROUPS[0].members, *GROUPS[1].members, "combined")


def context(training="first"):
    """What a plan needs of an engine whose adapters are of this training."""
    peers = {name: group.members for group in GROUPS for name in group.members}
    versions = dict.fromkeys(NAMES, training)
    return StudyContext(("tiny", "folder", "none", "float32"), versions, peers, METHODS, "{}{}".format)


def plan_of(training="first", module_seed=0, names=("sum",), chosen=None, prompts=PROMPTS, **more):
    settings = report_settings(staged_arms(names), chosen or {})
    return staged_plan(context(training), settings, PAIRS, prompts, SAMPLING, module_seed=module_seed, **more)


def test_each_prompt_has_some_targets_and_all_targets_are_had_alike():
    own = assigned(PROMPTS, PAIRS, 2)
    assert all(len(set(targets)) == 2 for targets in own.values()) and len(own) == 16
    counts = Counter(target for targets in own.values() for target in targets)
    assert set(counts) == set(PAIRS) and set(counts.values()) == {4}
    # Both sentiments and two topics for each prompt.
    assert all(one.wanted[0] != two.wanted[0] and one.wanted[1] != two.wanted[1] for one, two in own.values())
    assert assigned(PROMPTS[::-1], PAIRS, 2) == own
    assert all(set(targets) == set(PAIRS) for targets in assigned(PROMPTS, PAIRS, None).values())


def test_a_sampling_seed_is_the_prompt_s_own_whatever_the_others_are():
    few, every = (plan_of(prompts=some, per_prompt=8) for some in (PROMPTS[:2], PROMPTS))
    keys = {cell.key for cell in every.cells}
    assert {cell.key for cell in few.cells} <= keys
    assert len({sampling_seed(prompt, number) for prompt in PROMPTS for number in range(3)}) == 48
    assert sampling_seed(PROMPTS[0], FRESH + 99) < 2**32


def test_best_of_n_writes_several_of_the_weighted_arm_s_texts():
    plain, best = (
        plan_of(names=(f"contrast-{name}",), prompts=PROMPTS[:2]).jobs for name in ("weighted", "best-of-8")
    )
    plain, best = ([job for job in jobs if job.asked.get("method") == "contrast"] for jobs in (plain, best))
    assert [job.best_of for job in plain] == [1] * 16 and [job.best_of for job in best] == [8] * 16
    assert [replace(job, key="", best_of=1) for job in best] == [replace(job, key="") for job in plain]
    assert not {job.key for job in best} & {job.key for job in plain}


def test_the_page_says_how_many_texts_a_stage_takes():
    said = []
    for names in ((MAIN_ARMS,), None):
        arms = staged_arms(names)
        developed = develop_settings(arms, STRENGTHS)
        said.append(len(staged_plan(context(), developed, PAIRS, PROMPTS[:1], SAMPLING, per_prompt=1).jobs))
        tried = {arm.name: (variants(arm)[-1], 0.9) for arm in arms if arm.name not in REFERENCES}
        for trainings in (("one",), ("one", "two", "three")):
            plans = (
                plan_of(training, names=names, chosen=tried, prompts=PROMPTS[:1], per_prompt=2)
                for training in trainings
            )
            said.append(len({job.key for plan in plans for job in plan.jobs}))
    page = " ".join((ROOT / "docs" / "study.md").read_text("utf-8").split())
    few, one, three, more, all_one, all_three = said
    assert f"takes {few} texts a prompt for the main arms and {more} for all" in page
    assert (
        f"takes at most {one} texts a prompt for the main arms and {all_one} for all with one training, "
        f"{three} and {all_three} with three." in page
    )


def test_all_arms_have_the_same_places():
    found = plan_of(names=("sum", "average", "contrast"), per_prompt=2)
    places = {}
    for cell in found.cells:
        places.setdefault((cell.arm, cell.setting), set()).add((cell.prompt, cell.target.name, cell.seed))
    assert len({frozenset(each) for each in places.values()}) == 1 and len(places) == 4 + 3


def test_texts_without_modules_are_shared_by_module_seeds_and_others_are_not():
    one, two = plan_of("first", 0, per_prompt=1), plan_of("second", 1, per_prompt=1)
    keys = {
        arm: [{cell.key for cell in each.cells if cell.arm == arm} for each in (one, two)]
        for arm in ("base", "prompting", "single-topic", "sum")
    }
    for arm in ("base", "prompting"):
        assert keys[arm][0] == keys[arm][1]
    for arm in ("single-topic", "sum"):
        assert not keys[arm][0] & keys[arm][1]
    assert {cell.module_seed for cell in two.cells} == {1}


def test_one_adapter_trained_anew_leaves_the_keys_of_the_others():
    anew = replace(context(), versions={**context().versions, "sports": "second"})
    settings = report_settings(staged_arms(["sum"]), {})
    before = plan_of(per_prompt=1).cells
    after = staged_plan(anew, settings, PAIRS, PROMPTS, SAMPLING, per_prompt=1).cells
    changed = {one.target.name for one, two in zip(before, after, strict=True) if one.key != two.key}
    assert changed == {"negative+sports", "positive+sports"}


def test_a_weighted_arm_weighs_the_last_attribute_and_with_1_is_its_method():
    arm, plain, target = all_arms()["contrast-weighted"], all_arms()["contrast"], PAIRS[0]
    assert [each["balance"] for each in variants(arm)] == [1.0, 1.25, 1.5]
    first, last = target.modules
    asked = with_constants(arm, {"balance": 1.5}).composition_for(target, 0.75)
    assert asked["weights"] == {first: 1.0, last: 1.5} and "balance" not in asked
    alike = with_constants(arm, {"balance": 1.0}).composition_for(target, 0.75)
    assert alike == plain.composition_for(target, 0.75), "their texts have the same keys"
    assert arm.unavailable_reason(chat=False) is None


def test_a_module_that_is_missing_is_named_and_nothing_stands_in_for_it():
    lacking = replace(context(), versions={name: "1" for name in NAMES if name != "combined"})
    settings = report_settings(staged_arms(["combined", "sum"]), {})
    found = staged_plan(lacking, settings, PAIRS, PROMPTS[:2], SAMPLING)
    assert [(each.arm, each.reason) for each in found.missing] == [
        ("combined", "there is no adapter called combined")
    ]
    assert "combined" not in {cell.arm for cell in found.cells}


def test_the_chosen_setting_is_the_same_text_where_it_is_what_the_arm_has_anyway():
    chosen = {"contrast": ({"contrast": 0.5}, 1.0)}
    found = plan_of(names=("contrast",), chosen=chosen, per_prompt=1)
    keys = {
        name: {cell.key for cell in found.cells if (cell.arm, cell.setting) == ("contrast", name)}
        for name in (ONE, CHOSEN)
    }
    assert keys[ONE] == keys[CHOSEN] and len(keys[ONE]) == len(PROMPTS)
    other = plan_of(names=("contrast",), chosen={"contrast": ({"contrast": 1.0}, 0.75)}, per_prompt=1)
    job = next(job for job in other.jobs if job.asked.get("strength") == 0.75)
    assert job.asked["contrast"] == 1.0


def test_development_tries_every_constant_at_every_strength_and_the_references_once():
    settings = develop_settings(staged_arms([MAIN_ARMS]), (0.5, 1.0))
    tried = Counter(setting.arm.name for setting in settings)
    assert set(tried) == {*MAIN, *REFERENCES}
    assert all(tried[name] == 1 for name in REFERENCES)
    assert (tried["sum"], tried["contrast"], tried["kl-paper"], tried["arrow"]) == (2, 6, 4, 2)
    # Two modules whose weights sum to 1 are at 2 as loud as the others at 1.
    assert {each.strength for each in settings if each.arm.name == "average"} == {1.0, 2.0}
    paper = next(each for each in settings if each.arm.name == "kl-paper")
    assert paper.arm.parameters["scale"] == "paper" and "blend" in paper.arm.parameters


def test_constants_are_those_that_a_method_reads():
    known = all_arms()
    tried = {name: variants(known[name]) for name in ("contrast", "kl-contrast", "ties", "pico-kl", "spectr")}
    assert [each["contrast"] for each in tried["contrast"]] == [0.25, 0.5, 1.0]
    assert tried["contrast"] == tried["kl-contrast"] and tried["spectr"] == [{}]
    assert [each["density"] for each in tried["ties"]] == [0.2, 0.5]
    assert [each["blend"] for each in tried["pico-kl"]] == [0.5, 1.0]


def test_all_arms_are_staged_unless_some_are_named():
    assert {arm.name for arm in staged_arms(None)} == set(all_arms())
    assert [arm.name for arm in staged_arms(["ties"])] == [*REFERENCES, "ties"]
    with pytest.raises(ComposerError, match="There is no arm called"):
        staged_arms(["contrast-0.5"])


def config(stage, prompts, choices=None, arms=("sum",)):
    return StageConfig(stage, prompts, arms, None, (1.0,), 1, 2, SAMPLING, choices)


def test_a_stage_refuses_prompts_of_the_other_part():
    ours = prompts_of(load_prompts(), DEVELOPMENT)
    choices = Choices("tiny", 9.0, ("00",), (), {"sum": Choice({}, 1.0, 0.5, 9.0, True)})
    config(DEVELOPMENT, ours).check("tiny")
    config(REPORT, PROMPTS, choices).check("tiny")
    with pytest.raises(ComposerError, match="not of the development part"):
        config(DEVELOPMENT, PROMPTS).check("tiny")
    with pytest.raises(ComposerError, match="not of the report part"):
        config(REPORT, ours, choices).check("tiny")
    with pytest.raises(ComposerError, match="No prompt of the file"):
        config(REPORT, (), choices).check("tiny")
    with pytest.raises(ComposerError, match="needs choices"):
        config(REPORT, PROMPTS).settings()
    every = StageConfig(REPORT, PROMPTS, None, None, (), 1, 2, SAMPLING, choices).settings()
    assert {each.arm.name for each in every} == {*REFERENCES, "sum"}  # what has choices
    with pytest.raises(ComposerError, match="Did you mean arrow"):
        config(DEVELOPMENT, ours, arms=("arow",)).settings()


def test_a_rerun_draws_a_tenth_of_the_places_and_always_the_same():
    cells = plan_of(per_prompt=5).cells
    settings = (StoredSetting("sum", ONE, {}, 1.0),)
    record = RunRecord(REPORT, "tiny", "", "none", 1, 1, 5, {}, PROMPTS, settings, cells, (), (), ())
    places = drawn_places(record, 0.1)
    assert len(places) == 8 and places == drawn_places(record, 0.1)
    assert places < {(cell.prompt, cell.target.name) for cell in cells}
    assert len(drawn_places(record, 1e-9)) == 1
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(ComposerError, match="above 0"):
            drawn_places(record, share)
