"""The study's texts: planned once each, made in one batch, kept through any end of the run."""

import json
from dataclasses import replace

import pytest

from composer.core.catalog_types import Attribute
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.evaluation.generation import GeneratedText, Score, continue_texts, generate_texts
from composer.evaluation.scoring import perplexities
from composer.evaluation.store import Store
from composer.methods import METHODS
from composer.study.design.arms import COMBINED, Arm, all_arms, method_arms
from composer.study.design.claims import ONE
from composer.study.design.plan import StudyContext
from composer.study.design.staged_plan import staged_plan
from composer.study.design.targets import all_targets, choose
from composer.study.design.tuning import Setting
from tests.tools import tiny

SAMPLING = Sampling(max_new_tokens=6, time_limit=600)
PROMPTS = ("The film", "A goal was")
GROUPS = (
    Attribute("sentiment", "Sentiment", ("negative", "positive"), ("negative", "positive")),
    Attribute("topic", "Topic", ("sports", "world")),
    Attribute("style", "Style", ("plain", "ornate")),
)
BY_NAME = all_arms()
PAIR = "positive+sports"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    names = ("positive", "negative", "sports")
    return {name: tiny.adapter(folder / name, "llama", seed, r=2) for seed, name in enumerate(names)}


@pytest.fixture(scope="module")
def engine(folders):
    return tiny.engine("llama", folders, GROUPS)


@pytest.fixture(scope="module")
def context(engine):
    return StudyContext.of(engine)


def work_of(context, names, targets=None, strengths=(1.0,), prompts=PROMPTS, seeds=1, sampling=SAMPLING):
    settings = [Setting(BY_NAME[name], ONE, strength) for name in names for strength in strengths]
    chosen = choose(all_targets(GROUPS), targets)
    return staged_plan(context, settings, chosen, prompts, sampling, seeds=range(seeds))


# --- targets and arms ----------------------------------------------------------------------------


def test_targets_are_the_pairs_of_what_judges_know():
    targets = all_targets(GROUPS)
    names = ["negative+sports", "negative+world", "positive+sports", "positive+world"]
    assert [target.name for target in targets] == names
    assert targets[2].modules == ("positive", "sports") and targets[2].label("topic") == "sports"
    assert targets[2].wanted == (("sentiment", "positive"), ("topic", "sports"))
    assert targets[0].words == "a negative sentiment and a sports topic"


def test_targets_are_chosen_by_name():
    targets = all_targets(GROUPS)
    assert [t.name for t in choose(targets, ("positive+world", PAIR))] == [PAIR, "positive+world"]
    with pytest.raises(ComposerError, match="There are: negative"):
        choose(targets, ("joy",))
    with pytest.raises(ComposerError, match="nothing to study"):
        choose((), None)


def test_every_method_is_an_arm_and_every_arm_says_what_it_is():
    assert {arm.method for arm in BY_NAME.values()} == set(METHODS)
    assert all(arm.label and arm.help and arm.source and arm.family for arm in BY_NAME.values())
    by_method = [arm for arm in BY_NAME.values() if arm.name in METHODS or arm.name.startswith("kl-")]
    assert len(by_method) == len(METHODS) + 1  # kl has two scales
    assert {"kl-unit", "kl-paper", "contrast", "base", "single-topic", COMBINED} <= set(BY_NAME)
    assert "kl" not in BY_NAME and len({arm.label for arm in BY_NAME.values()}) == len(BY_NAME)


def test_a_method_that_is_new_is_an_arm_by_itself():
    new = replace(METHODS["sum"], name="louder", label="Louder", family="New")
    [arm] = method_arms(new)
    assert (arm.name, arm.label, arm.family, arm.method) == ("louder", "Louder", "New", "louder")
    assert dict(arm.parameters) == {}


def test_what_an_arm_asks_for_makes_a_composition():
    [pair] = choose(all_targets(GROUPS), [PAIR])
    composition = Composition(**BY_NAME["kl-paper"].composition_for(pair, 1.25))
    assert (composition.method, composition.scale, composition.strength) == ("kl", "paper", 1.25)
    assert dict(composition.weights) == {"positive": 1, "sports": 1}
    assert BY_NAME["base"].composition_for(pair, 1.25) == {}
    assert BY_NAME["single-topic"].composition_for(pair, 1)["weights"] == {"sports": 1}
    assert BY_NAME["contrast"].composition_for(pair, 1)["contrast"] == 0.5
    for arm in BY_NAME.values():
        Composition(**arm.composition_for(pair, 1.0))


def test_arms_without_template_or_adapter_are_missing_with_the_reason(context):
    found = work_of(context, ["prompting", "sum", COMBINED])
    assert [(each.arm, each.targets, each.reason) for each in found.missing] == [
        (None, ("negative+world", "positive+world"), "there is no adapter called world"),
        ("prompting", (), "the base has no chat template to be told through"),
        (COMBINED, (), "there is no adapter called combined"),
    ]
    assert {cell.target.name for cell in found.cells} == {"negative+sports", PAIR}


def test_an_arm_is_planned_once_its_template_and_adapter_are_there(context):
    later = replace(
        context,
        versions={**context.versions, "world": "1", COMBINED: "1"},
        chat=lambda instruction, beginning: f"<user>{instruction}</user>{beginning}",
    )
    found = work_of(later, ["prompting", COMBINED])
    assert not found.missing and {cell.arm for cell in found.cells} == {"prompting", COMBINED}
    inputs = [job.model_input for job in found.jobs if not job.asked]
    assert all(text.startswith("<user>") for text in inputs)
    assert any("has a negative sentiment and a world news topic" in text for text in inputs)
    assert {text.rpartition("</user>")[2] for text in inputs} == set(PROMPTS)


def test_a_dial_that_compositions_do_not_have_is_a_reason():
    arm = Arm("new", "x", "New", "-", "-", parameters={"colour": 0.5})
    assert arm.unavailable_reason(True) == "a composition has no dial called colour"


def test_a_base_that_is_chatted_with_is_refused(engine):
    chatting = tiny.engine("llama", {})
    chatting.base = replace(chatting.base, spec=replace(chatting.base.spec, prompting="chat"))
    with pytest.raises(ComposerError, match="plain"):
        StudyContext.of(chatting)


# --- sharing -------------------------------------------------------------------------------------


def test_the_same_text_is_one_job(context):
    targets = ["negative+sports", PAIR]
    found = work_of(context, ["base"], targets, (0.5, 1.0))
    assert len(found.cells) == 2 * 2 * 2 and len(found.jobs) == 2  # targets, strengths, prompts
    found = work_of(context, ["single-topic"], targets)
    assert len(found.cells) == 4 and len(found.jobs) == 2  # both pairs have the same topic


def test_the_joint_adapter_gets_control_words(context):
    later = replace(context, versions={**context.versions, COMBINED: "1"})
    found = work_of(later, ["sum", COMBINED], [PAIR], prompts=PROMPTS[:1])
    inputs = {cell.arm: job.model_input for cell in found.cells for job in found.jobs if job.key == cell.key}
    assert inputs == {"sum": "The film", COMBINED: "[positive, sports] The film"}


def test_a_text_is_judged_and_scored_without_its_control_words(folders):
    engine = tiny.engine("llama", {**folders, COMBINED: folders["sports"]}, GROUPS)
    found = work_of(StudyContext.of(engine), [COMBINED], [PAIR], prompts=PROMPTS[:1])
    made, score = generate_texts(engine, found.jobs, [], SAMPLING)
    seed = replace(SAMPLING, seed=found.jobs[0].seed)
    composition = Composition(weights={COMBINED: 1})
    steps = list(engine.generate("[positive, sports] The film", composition, seed))
    assert (made.prompt, made.continuation) == ("The film", steps[-1].text)
    assert score.perplexity == pytest.approx(perplexities(engine, [("The film", steps[-1].text)])[0])


def test_a_key_changes_with_what_the_text_depends_on_and_nothing_else(context):
    asked = {"method": "sum", "weights": {"positive": 1.0}, "strength": 1.0}
    contrast = {**asked, "method": "contrast"}
    key = context.key("A", asked, SAMPLING, 0)
    other = replace(context, versions={**context.versions, "positive": "retrained"})
    peer = replace(context, versions={**context.versions, "negative": "retrained"})
    far = replace(context, versions={**context.versions, "sports": "retrained"})
    changed = [
        context.key("B", asked, SAMPLING, 0),
        context.key("A", asked, SAMPLING, 1),
        context.key("A", {**asked, "strength": 0.5}, SAMPLING, 0),
        context.key("A", contrast, SAMPLING, 0),
        context.key("A", {**contrast, "contrast": 0.5}, SAMPLING, 0),
        context.key("A", asked, replace(SAMPLING, temperature=0.5), 0),
        replace(context, base=("other",)).key("A", asked, SAMPLING, 0),
        other.key("A", asked, SAMPLING, 0),
        peer.key("A", contrast, SAMPLING, 0),
    ]
    assert len({key, *changed}) == len(changed) + 1
    assert peer.key("A", asked, SAMPLING, 0) == far.key("A", asked, SAMPLING, 0) == key
    assert context.key("A", {**asked, "scale": "unit"}, replace(SAMPLING, time_limit=9), 0) == key


# --- making --------------------------------------------------------------------------------------


def test_texts_are_those_of_the_engine_one_by_one(engine, context):
    found = work_of(context, ["base", "sum", "kl-unit", "logits"], [PAIR], seeds=2)
    made = {text.key: text for text in continue_texts(engine, found.jobs, SAMPLING, slots=3)}
    assert len(made) == len(found.jobs) == 16
    for job in found.jobs:
        steps = list(
            engine.generate(job.model_input, Composition(**job.asked), replace(SAMPLING, seed=job.seed))
        )
        assert made[job.key].continuation == steps[-1].text


def test_a_text_of_more_branches_than_slots_is_its_own_fault(engine, context):
    found = work_of(context, ["sum", "logits"], [PAIR])
    made = {text.key: text for text in continue_texts(engine, found.jobs, SAMPLING, slots=2)}
    assert made.keys() == {job.key for job in found.jobs}
    for job in found.jobs:
        fault = made[job.key].fault
        assert (fault is not None and "room for 2" in fault) == (job.asked["method"] == "logits")


def test_scores_come_with_the_texts_and_for_those_left_over(engine, context):
    found = work_of(context, ["sum"], [PAIR])
    left = GeneratedText("left", "The film", 0, {}, " is")
    empty = GeneratedText("empty", "The film", 0, {}, "")
    long = GeneratedText("long", "The film", 0, {}, "x" * 400)  # more than the base can read
    results = list(generate_texts(engine, found.jobs, [left, empty, long], SAMPLING))
    scores = {each.key: each.perplexity for each in results if isinstance(each, Score)}
    assert set(scores) == {"left", "empty", "long"} | {job.key for job in found.jobs}
    assert scores["left"] > 1 and scores["empty"] is None and scores["long"] is None


def test_a_unit_that_cannot_be_made_is_recorded_and_tried_again(engine, context, tmp_path):
    found = work_of(context, ["base"], [PAIR], prompts=("fine", "x" * 500))
    store, counts = Store(tmp_path), []
    store.run_pending(found.jobs, lambda *todo: generate_texts(engine, *todo, SAMPLING), counts.append)
    [(key, sentence)] = store.faults(found.jobs).items()
    assert "too long" in sentence and store.text(key).prompt == "x" * 500 and sum(counts) == 2

    tried = []
    again = Store(tmp_path)
    again.run_pending(
        found.jobs, lambda jobs, unscored: tried.extend(jobs) or [GeneratedText(key, "x", 0, {}, "now")]
    )
    assert [job.key for job in tried] == [key] and not again.faults(found.jobs)
    assert Store(tmp_path).text(key).continuation == "now"


class Killed(BaseException):
    """Ends a run as a signal would: nothing may catch it."""


def killed_after(results, count):
    for place, result in enumerate(results):
        if place == count:
            raise Killed
        yield result


@pytest.mark.parametrize("count", [0, 1, 5, 13])
@pytest.mark.parametrize("torn", [0, 17])
def test_a_killed_run_goes_on_and_does_nothing_twice(engine, context, tmp_path, count, torn):
    found = work_of(context, ["base", "sum"], [PAIR], seeds=2)
    with pytest.raises(Killed):
        Store(tmp_path).run_pending(
            found.jobs, lambda *todo: killed_after(generate_texts(engine, *todo, SAMPLING, 3), count)
        )
    path = tmp_path / "texts.jsonl"
    kept = path.read_bytes() if path.exists() else b""
    if kept and torn:
        path.write_bytes(kept[:-torn])  # the last line was being written
    whole = kept[:-torn].count(b"\n") if torn else kept.count(b"\n")

    todo = []
    store = Store(tmp_path)
    store.run_pending(
        found.jobs,
        lambda jobs, unscored: todo.append(len(jobs)) or generate_texts(engine, jobs, unscored, SAMPLING, 3),
    )
    assert todo == [len(found.jobs) - whole]
    lines = path.read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == sorted(job.key for job in found.jobs)
    straight = {made.key: made for made in continue_texts(engine, found.jobs, SAMPLING, 3)}
    assert all(store.text(key) == made for key, made in straight.items())
    assert all(store.perplexity(job.key) for job in found.jobs)
