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
from composer.study.design.arms import ARMS, JOINT_ADAPTERS, Arm
from composer.study.design.plan import StudyContext, plan
from composer.study.design.targets import MULTI, all_targets, choose
from tests.tools import tiny

SAMPLING = Sampling(max_new_tokens=6, time_limit=600)
PROMPTS = ("The film", "A goal was")
GROUPS = (
    Attribute("sentiment", "Sentiment", ("negative", "positive"), ("negative", "positive")),
    Attribute("topic", "Topic", ("sports", "world")),
    Attribute("style", "Style", ("plain", "ornate")),
)
BY_NAME = {arm.name: arm for arm in ARMS}


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


def arms(*names):
    return [BY_NAME[name] for name in names]


def work_of(context, names, targets=None, strengths=(1.0,), prompts=PROMPTS, seeds=1, sampling=SAMPLING):
    chosen = choose(all_targets(GROUPS), targets)
    return plan(context, arms(*names), chosen, strengths, prompts, seeds, sampling)


# --- targets and arms ----------------------------------------------------------------------------


def test_targets_are_singles_pairs_and_triples_of_what_judges_know():
    targets = all_targets(GROUPS)
    assert [target.name for target in targets if target.kind == "topic"] == ["sports", "world"]
    pairs = [target for target in targets if target.kind == "pair"]
    assert len(targets) == 2 + 2 + 4 + 4 and len(pairs) == 4
    triple = next(target for target in targets if target.name == f"positive+sports+{MULTI}")
    assert triple.modules == ("positive", "sports", MULTI)
    assert triple.wanted == (("sentiment", "positive"), ("topic", "sports"))
    assert pairs[0].words == "a negative sentiment and a sports topic"


def test_targets_are_chosen_by_name_or_kind():
    targets = all_targets(GROUPS)
    assert [t.name for t in choose(targets, ("world", "sentiment"))] == ["negative", "positive", "world"]
    with pytest.raises(ComposerError, match="There are: sentiment, negative"):
        choose(targets, ("joy",))
    with pytest.raises(ComposerError, match="nothing to study"):
        choose((), None)


def test_every_arm_of_the_project_says_what_it_is():
    assert len(BY_NAME) == len(ARMS)
    assert all(arm.label and arm.help and arm.source and arm.family for arm in ARMS)
    outputs = {"sum", "average", "static", "balanced", "contrast", "pico"}
    logits = {"logits", "logits-contrast"}
    adaptive = {"kl", "kl-contrast", "cosine", "logo", "arrow"}
    weights = {"factor-average", "linear", "svd", "ties", "dare-ties", "core"}
    assert {arm.method for arm in ARMS} == outputs | logits | adaptive | weights


def test_what_an_arm_asks_for_makes_a_composition():
    pair = next(target for target in all_targets(GROUPS) if target.name == "positive+sports")
    asked = BY_NAME["kl-paper"].composition_for(pair, 1.25)
    composition = Composition(**asked)
    assert (composition.method, composition.scale, composition.strength) == ("kl", "paper", 1.25)
    assert dict(composition.weights) == {"positive": 1, "sports": 1}
    assert BY_NAME["base"].composition_for(pair, 1.25) == {}
    assert BY_NAME["single-topic"].composition_for(pair, 1)["weights"] == {"sports": 1}
    assert BY_NAME["sum-multi"].composition_for(pair, 1)["weights"] == {"positive": 1, "sports": 1, MULTI: 1}


def test_an_arm_may_ask_for_more_of_one_attribute_and_then_wants_two():
    alone, pair = (
        next(target for target in all_targets(GROUPS) if target.name == name)
        for name in ("sports", "positive+sports")
    )
    louder = BY_NAME["contrast-0.5-topic-1.25"]
    asked = louder.composition_for(pair, 0.75)
    assert asked == BY_NAME["contrast-0.5"].composition_for(pair, 0.75) | {
        "weights": {"positive": 1, "sports": 1.25}
    }
    assert louder.composition_for(alone, 1) is None
    assert BY_NAME["sum-topic-1.25"].composition_for(pair, 1)["weights"] == {"positive": 1, "sports": 1.25}


def test_arms_without_method_template_or_adapter_are_missing_with_the_reason(context):
    context = replace(context, methods={name: method for name, method in METHODS.items() if name != "logo"})
    found = work_of(context, ["prompting", "logo", "sum", "sum-multi"], ["pair"])
    assert [(each.arm, each.targets, each.reason) for each in found.missing] == [
        (None, ("negative+world", "positive+world"), "there is no adapter called world"),
        ("prompting", (), "the base has no chat template to be told through"),
        ("logo", (), "there is no method called logo"),
        ("sum-multi", ("pair",), f"there is no adapter called {MULTI}"),
    ]
    assert {cell.target.name for cell in found.cells} == {"negative+sports", "positive+sports"}


def test_arms_come_by_themselves_when_their_method_and_adapter_do(context):
    later = replace(
        context,
        methods={**METHODS, "logo": replace(METHODS["sum"], name="logo")},
        versions={**context.versions, "world": "1", MULTI: "1"},
        chat=lambda instruction, beginning: f"<user>{instruction}</user>{beginning}",
    )
    found = work_of(later, ["prompting", "logo", "sum-multi"], ["pair"])
    assert not found.missing and {cell.arm for cell in found.cells} == {"prompting", "logo", "sum-multi"}
    model_input = next(job.model_input for job in found.jobs if not job.asked)
    assert (
        model_input.startswith("<user>") and "has a negative sentiment and a world news topic" in model_input
    )
    assert model_input.endswith("</user>A goal was")


def test_a_dial_that_compositions_do_not_have_is_a_reason():
    arm = Arm("new", "x", "New", "-", "-", parameters={"colour": 0.5})
    assert arm.unavailable_reason(METHODS, True) == "a composition has no dial called colour"


def test_a_base_that_is_chatted_with_is_refused(engine):
    chatting = tiny.engine("llama", {})
    chatting.base = replace(chatting.base, spec=replace(chatting.base.spec, prompting="chat"))
    with pytest.raises(ComposerError, match="plain"):
        StudyContext.of(chatting)


# --- sharing -------------------------------------------------------------------------------------


def test_the_same_text_is_one_unit(context):
    strengths = (0.5, 1.0)
    found = work_of(context, ["base"], ["sentiment", "pair"], strengths)
    assert len(found.cells) == (2 + 2) * 2 * 2 and len(found.jobs) == 2  # targets, strengths, prompts
    # With one module every way of composing is that module, and a pair's module alone is the same again.
    names = ["single-sentiment", "sum", "kl-unit"]
    found = work_of(context, names, ["positive"], strengths)
    assert len(found.cells) == 3 * 4 and len(found.jobs) == 4
    assert len(work_of(context, ["single-sentiment"], ["positive", "positive+sports"]).jobs) == 2
    # Contrast is more than its one module.
    assert len(work_of(context, [*names, "contrast-1"], ["positive"]).jobs) == 4


def test_joint_adapters_get_control_words(context):
    later = replace(context, versions={**context.versions, **dict.fromkeys(JOINT_ADAPTERS, "1")})
    found = work_of(later, ["sum", "combined", "multi", "sum-multi"], ["positive", "positive+sports"])
    model_input = {cell.arm: job.model_input for cell in found.cells for job in found.jobs
            if (job.key, job.prompt, cell.target.kind) == (cell.key, "The film", "pair")}  # fmt: skip
    words = "[positive, sports] The film"
    assert model_input == {"sum": "The film", "combined": words, "multi": words, "sum-multi": words}
    one = {job.model_input for job in found.jobs if "combined-sentiment" in job.asked["weights"]}
    assert one == {f"[positive] {prompt}" for prompt in PROMPTS}


def test_a_text_is_judged_and_scored_without_its_control_words(folders):
    engine = tiny.engine("llama", {**folders, MULTI: folders["sports"]})
    found = work_of(StudyContext.of(engine), ["multi"], ["positive+sports"], prompts=PROMPTS[:1])
    made, score = generate_texts(engine, found.jobs, [], SAMPLING)
    composition = Composition(weights={MULTI: 1})
    steps = list(engine.generate("[positive, sports] The film", composition, replace(SAMPLING, seed=0)))
    assert (made.prompt, made.continuation) == ("The film", steps[-1].text)
    assert score.perplexity == pytest.approx(perplexities(engine, [("The film", steps[-1].text)])[0])


def test_a_seed_belongs_to_the_prompt(context):
    cells = work_of(context, ["base", "sum"], ["positive"], seeds=2).cells
    seeds = {arm: [(c.prompt, c.seed) for c in cells if c.arm == arm] for arm in ("base", "sum")}
    assert seeds["base"] == seeds["sum"] and len({seed for _, seed in seeds["sum"]}) == 4


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
    found = work_of(context, ["base", "sum", "kl-unit", "logits"], ["positive+sports"], seeds=2)
    made = {text.key: text for text in continue_texts(engine, found.jobs, SAMPLING, slots=3)}
    assert len(made) == len(found.jobs) == 16
    for job in found.jobs:
        steps = list(
            engine.generate(job.model_input, Composition(**job.asked), replace(SAMPLING, seed=job.seed))
        )
        assert made[job.key].continuation == steps[-1].text


def test_a_text_of_more_branches_than_slots_is_its_own_fault(engine, context):
    found = work_of(context, ["sum", "logits"], ["positive+sports"])
    made = {text.key: text for text in continue_texts(engine, found.jobs, SAMPLING, slots=2)}
    assert made.keys() == {job.key for job in found.jobs}
    for job in found.jobs:
        fault = made[job.key].fault
        assert (fault is not None and "room for 2" in fault) == (job.asked["method"] == "logits")


def test_scores_come_with_the_texts_and_for_those_left_over(engine, context):
    found = work_of(context, ["sum"], ["positive"])
    left = GeneratedText("left", "The film", 0, {}, " is")
    empty = GeneratedText("empty", "The film", 0, {}, "")
    long = GeneratedText("long", "The film", 0, {}, "x" * 400)  # more than the base can read
    results = list(generate_texts(engine, found.jobs, [left, empty, long], SAMPLING))
    scores = {each.key: each.perplexity for each in results if isinstance(each, Score)}
    assert set(scores) == {"left", "empty", "long"} | {job.key for job in found.jobs}
    assert scores["left"] > 1 and scores["empty"] is None and scores["long"] is None


def test_only_the_first_seeds_are_scored_where_that_is_asked(engine, context, tmp_path):
    [target] = choose(all_targets(GROUPS), ["positive"])
    few = plan(context, arms("sum"), [target], (1.0,), PROMPTS, 3, SAMPLING, 1).jobs
    every = plan(context, arms("sum"), [target], (1.0,), PROMPTS, 3, SAMPLING).jobs
    assert [job.key for job in few] == [job.key for job in every] and len(few) == 6
    store = Store(tmp_path)
    store.run_pending(few, lambda *todo: generate_texts(engine, *todo, SAMPLING))
    known = [job.seed for job in few if store.perplexity(job.key)]
    assert sorted(known) == [0, 1]
    asked = []
    store.run_pending(
        every,
        lambda jobs, unscored: asked.extend(unscored) or generate_texts(engine, jobs, unscored, SAMPLING),
    )
    assert len(asked) == 4 and all(store.perplexity(job.key) for job in every)


def test_strengths_beside_one_may_have_fewer_seeds(context):
    targets = choose(all_targets(GROUPS), ["positive"])
    cells = plan(context, arms("sum"), targets, (0.5, 1.0), PROMPTS, 3, SAMPLING, swept=1).cells
    seeds = {strength: {cell.seed for cell in cells if cell.strength == strength} for strength in (0.5, 1.0)}
    assert len(seeds[1.0]) == 6 and seeds[0.5] < seeds[1.0] and len(seeds[0.5]) == 2


def test_strengths_beside_one_may_have_fewer_prompts(context):
    targets = choose(all_targets(GROUPS), ["positive"])
    few = plan(context, arms("sum"), targets, (0.5, 1.0), PROMPTS, 3, SAMPLING, swept=2, swept_prompts=1)
    swept = [(cell.prompt, cell.seed) for cell in few.cells if cell.strength == 0.5]
    assert swept == [(PROMPTS[0], 0), (PROMPTS[0], 10_000)]
    # The seeds are those the prompt has anyway: what was made before a sweep was widened is kept.
    every = plan(context, arms("sum"), targets, (0.5, 1.0), PROMPTS, 3, SAMPLING)
    assert {cell.key for cell in few.cells} < {cell.key for cell in every.cells}
    assert len({cell.key for cell in few.cells if cell.strength == 1}) == 6


def test_three_modules_have_as_few_seeds_as_other_strengths(context):
    context = replace(context, versions={**context.versions, MULTI: "1"})
    targets = choose(all_targets(GROUPS), ["positive+sports", f"positive+sports+{MULTI}"])
    cells = plan(context, arms("sum"), targets, (1.0,), PROMPTS, 3, SAMPLING, swept=1).cells
    seeds = {kind: {cell.seed for cell in cells if cell.target.kind == kind} for kind in ("pair", "triple")}
    assert len(seeds["pair"]) == 6 and seeds["triple"] < seeds["pair"] and len(seeds["triple"]) == 2


def test_a_unit_that_cannot_be_made_is_recorded_and_tried_again(engine, context, tmp_path):
    found = work_of(context, ["base"], ["positive"], prompts=("fine", "x" * 500))
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
    found = work_of(context, ["base", "sum"], ["positive+sports"], seeds=2)
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
