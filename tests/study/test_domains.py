"""The test without judges: losses against transformers and PEFT, shares on a planted domain, statistics."""

from __future__ import annotations

import gzip
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Gemma2Config

from composer.core.catalog_types import Attribute
from composer.core.composition import Composition, Sampling
from composer.core.document import Picture
from composer.core.errors import ComposerError
from composer.evaluation.metrics import Interval
from composer.study.domains.in_words import in_short
from composer.study.domains.losses import Candidate, mean_losses
from composer.study.domains.measure import measure
from composer.study.domains.passages import QUERY, TOKENS, Passage, held_out_rows, load_passages
from composer.study.domains.queries import MEASURES, QueryReader
from composer.study.domains.registry import DOMAINS, EIGHT, Source, choose
from composer.study.domains.report import blocks
from composer.study.domains.settings import SETTINGS
from composer.study.domains.statistics import (
    WaySummary,
    picked,
    profiles,
    query_tests,
    recovered,
    summaries,
)
from composer.training.data import normal, side
from composer.training.recipes import load_recipes
from tests.evaluation import toys
from tests.tools import tiny

NAMES = ("world", "sports", "poetic")
TOKENIZER = tiny.tokenizer()
IGNORED = -100


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {name: tiny.adapter(folder / name, "llama", seed, r=2 + seed) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def engine(folders):
    return tiny.engine("llama", folders, (Attribute("topic", "", ("world", "sports")),))


def passages_of(texts, names=NAMES, query=5):
    """texts: of each domain in turn, so many each, cut to one length."""
    each = len(texts) // len(names)
    return [
        Passage(names[place // each], tuple(TOKENIZER(text)["input_ids"][: min(map(len, texts))]), query)
        for place, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def passages():
    return passages_of(
        [
            "The minister said it",
            "A border was drawn",
            "They scored a goal",
            "The coach was glad",
            "O moon of the night",
            "Thy light, my love",
        ]
    )


@pytest.fixture(scope="module")
def found(engine, passages):
    return measure(engine, passages)


def own_loss(model, passage) -> float:
    """transformers' own loss of the tokens after the query."""
    ids = torch.tensor([passage.ids])
    labels = ids.clone()
    labels[:, : passage.query] = IGNORED
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss)


# --- losses ----------------------------------------------------------------------------------------


def test_the_base_s_losses_are_transformers_own(found, passages):
    model = tiny.model("llama")
    assert found.base == pytest.approx([own_loss(model, each) for each in passages], abs=1e-5)


@pytest.mark.parametrize("family", sorted({*tiny.FAMILIES, *tiny.VARIANTS} - {"llama"}))
def test_they_are_for_every_family_of_bases(family, passages):
    model = tiny.model(family)
    bare = [[Candidate(np.zeros((3, 0), np.float32))]] * len(passages)
    ours = mean_losses(tiny.engine(family, {}), passages, bare)[:, 0]
    assert ours == pytest.approx([own_loss(model, each) for each in passages], abs=1e-4)


def test_a_base_that_caps_its_logits_is_refused(passages):
    config = Gemma2Config(**tiny.COMMON, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5)
    engine = tiny.engine_of(tiny.random(config))
    with pytest.raises(ComposerError, match="not its unembedded hidden states"):
        mean_losses(engine, passages, [[Candidate(np.zeros((3, 0), np.float32))]] * len(passages))


def test_losses_alone_are_peft_s(found, passages, folders):
    for column, name in enumerate(NAMES):
        model = PeftModel.from_pretrained(tiny.model("llama"), folders[name]).eval()
        theirs = [own_loss(model, each) for each in passages]
        assert found.alone[:, column] == pytest.approx(theirs, abs=1e-4)
        assert np.abs(found.alone[:, column] - found.base).max() > 0.01


def test_the_sum_s_losses_are_peft_s_with_all_adapters_active(found, passages, folders):
    first, *rest = NAMES
    model = PeftModel.from_pretrained(tiny.model("llama"), folders[first], adapter_name=first)
    for name in rest:
        model.load_adapter(folders[name], adapter_name=name)
    model.base_model.set_adapter(list(NAMES))
    assert found.composed["sum"] == pytest.approx(
        [own_loss(model.eval(), each) for each in passages], abs=1e-4
    )


def test_every_setting_s_losses_are_the_engine_s_own_under_gates_of_the_query_alone(engine, found, passages):
    snapshot = engine.snapshot
    for name, setting in SETTINGS.items():
        resolved = engine.resolve(setting.composition(NAMES))
        for place in (0, 5):
            passage = passages[place]
            prompt = TOKENIZER.decode(passage.query_ids)
            row = engine.row("row", prompt, setting.composition(NAMES), Sampling())
            candidate = Candidate(row.mixture.gates[0], resolved.router(len(snapshot.bank.names)))
            alone = mean_losses(engine, [passage], [[candidate]])
            assert found.composed[name][place] == pytest.approx(alone[0, 0], abs=1e-5), name


def test_static_and_average_are_the_same_to_the_bit(found):
    assert np.array_equal(found.composed["static"], found.composed["average"])
    assert not np.array_equal(found.composed["sum"], found.composed["average"])


def test_a_passage_s_loss_does_not_depend_on_its_neighbours(engine, passages):
    gates = np.ones((engine.model.layers, len(NAMES)), np.float32)
    mixed = [[Candidate(gates), Candidate(gates * 0)] for _ in passages]
    together = mean_losses(engine, passages, mixed)
    single = [mean_losses(engine, [one], [own])[0] for one, own in zip(passages, mixed, strict=True)]
    assert together == pytest.approx(np.stack(single), abs=1e-5)


def test_measuring_again_gives_the_same_bits(engine, passages, found):
    again = measure(engine, passages)
    for each in fields(found):
        one, other = getattr(found, each.name), getattr(again, each.name)
        if isinstance(one, np.ndarray):
            assert np.array_equal(one, other), each.name
        elif each.name not in ("names", "left_out"):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one), each.name


# --- gates and their controls ----------------------------------------------------------------------


def test_gates_of_queries_are_those_of_a_generation_to_the_bit(engine, passages):
    reader = QueryReader(engine, NAMES)
    for passage in passages[::3]:
        prompt = TOKENIZER.decode(passage.query_ids)
        for setting in SETTINGS.values():
            composition = setting.composition(NAMES)
            ours = reader.gates(engine.resolve(composition, among=NAMES), passage.query_ids)
            assert np.array_equal(
                ours[None], engine.row("row", prompt, composition, Sampling()).mixture.gates
            )


def test_shares_of_kl_are_the_engine_s_fusion(engine, passages, found):
    prompt = TOKENIZER.decode(passages[3].query_ids)
    assert np.array_equal(found.shares["kl"][3], engine.fusion(prompt, NAMES).alpha)
    assert np.array_equal(found.shares["kl-published"][3], engine.fusion(prompt, NAMES, norm=False).alpha)


def test_the_blind_gates_are_the_mean_and_the_permuted_ones_another_domain_s(engine, passages, found):
    resolved = engine.resolve(SETTINGS["kl-unit"].composition(NAMES), among=NAMES)
    reader = QueryReader(engine, NAMES)
    gates = [reader.gates(resolved, each.query_ids) for each in passages]
    blind = [[Candidate(np.mean(gates, axis=0))]] * len(passages)
    assert found.blind["kl-unit"] == pytest.approx(mean_losses(engine, passages, blind)[:, 0], abs=1e-5)
    # Two passages a domain: the first takes the next domain's first, the second the one after that's second.
    others = [gates[place] for place in (2, 5, 4, 1, 0, 3)]
    swapped = mean_losses(engine, passages, [[Candidate(each)] for each in others])
    assert found.permuted["kl-unit"] == pytest.approx(swapped[:, 0], abs=1e-5)


def test_unequal_numbers_of_passages_are_refused(engine, passages):
    with pytest.raises(ValueError, match="equally many passages"):
        measure(engine, passages[:-1])


# --- a planted domain ------------------------------------------------------------------------------


def planted(folder, own: str, other: str):
    """An adapter of the first layer's values that acts on tokens `own` alone: A is 0 on `other`'s input."""
    model = tiny.model("llama")
    layer = model.model.layers[0]
    ids = torch.tensor([TOKENIZER(own + other)["input_ids"]])
    with torch.no_grad():
        mine, theirs = layer.input_layernorm(model.model.embed_tokens(ids))[0]  # [d] each
    direction = mine - (mine @ theirs) / (theirs @ theirs) * theirs
    wrapped = get_peft_model(model, LoraConfig(r=1, target_modules=["v_proj"], layers_to_transform=[0]))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name:
                parameter.copy_(direction[None])
            elif "lora_B" in name:
                parameter.normal_(0, 1)
    wrapped.save_pretrained(folder)
    return folder


def test_an_adapter_that_acts_on_its_domain_alone_gets_the_whole_share(tmp_path):
    pair = {"sports": planted(tmp_path / "sports", "s", "w"), "world": planted(tmp_path / "world", "w", "s")}
    engine = tiny.engine("llama", pair)
    texts = passages_of(["s" * 9, "s" * 12, "w" * 9, "w" * 12], ("sports", "world"))
    found = measure(engine, texts)
    for name, profile in profiles(found).items():
        # An output is there in the first layer alone; what it changes goes on through all of them.
        whole = np.array([1, 0.5, 0.5]) if name == "contribution" else np.ones(3)
        assert profile.by_layer == pytest.approx(whole, abs=1e-3), name
        assert profile.share.value == pytest.approx(whole.mean(), abs=1e-3)
        assert profile.confusion.tolist() == [[2, 0], [0, 2]] and profile.top1.value == 1
        assert profile.follows.gain == pytest.approx(2 * whole.mean() - 1, abs=1e-3)
        assert profile.fixed < 0.01
    # With the whole share, KL's gates are the right adapter's alone; those of the other domain are nobody's.
    assert found.composed["kl-paper"] == pytest.approx(found.right, abs=1e-4)
    assert found.permuted["kl-paper"] == pytest.approx(found.base, abs=1e-4)
    assert picked(found)[f"Picked: {MEASURES['kl']}"] == pytest.approx(found.right)
    assert set(found.left_out) == {SETTINGS["logo-paper"].label}
    assert "logo" not in found.shares and not {"contrast", "contrast-mean"} & found.composed.keys()


# --- statistics ------------------------------------------------------------------------------------


def test_hindsight_is_never_above_what_it_chooses_from(found):
    ways = {way.label: way for way in summaries(found)}
    best, setting = ways["Best adapter in hindsight, per text"], ways["Best setting in hindsight, per text"]
    assert (found.alone.min(axis=1)[:, None] <= found.alone).all()
    assert best.loss <= found.alone.mean(axis=0).min()
    assert best.loss <= min(way.loss for label, way in ways.items() if label.startswith("Picked"))
    assert setting.loss <= min(way.loss for way in ways.values() if way.total)


def test_summaries_are_the_losses_means_and_sorted(found):
    ways = summaries(found)
    settings = [way for way in ways if way.total]
    assert [way.loss for way in settings] == sorted(way.loss for way in settings)
    assert {way.label for way in settings} == {SETTINGS[name].label for name in found.composed}
    by_label = {way.label: way for way in ways}
    kl = by_label["KL (paper scale)"]
    assert kl.minus_base.value == pytest.approx((found.composed["kl-paper"] - found.base).mean())
    gap = (found.composed["kl-paper"] - found.base)[found.owners == 1].mean()
    assert kl.domains["sports"].value == pytest.approx(gap)
    assert by_label["Average"].minus_average.value == 0
    tests = {test.label: test for test in query_tests(found)}
    assert tests["KL (paper scale)"].minus_blind.value == pytest.approx(
        (found.composed["kl-paper"] - found.blind["kl-paper"]).mean()
    )


def test_the_gap_recovered_by_hand():
    base, right = np.array([4.0, 5.0, 4.5, 4.2]), np.array([3.0, 4.0, 3.5, 3.2])
    half = recovered(base, base - 0.5, right)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    assert recovered(base, right, right).value == pytest.approx(1)
    assert recovered(base, base + 0.25, right).value == pytest.approx(-0.25)
    assert recovered(base, base - 0.5, base + np.array([0.1, -0.1, 0.1, -0.1])) is None


def test_a_share_that_ignores_the_query_is_found_out(found):
    fixed = np.tile(np.array([0.6, 0.3, 0.1]), (6, found.norms.shape[0], 1))  # [P, L, N]
    loud = profiles(replace(found, shares={**found.shares, "kl": fixed}))["kl"]
    assert loud.fixed == pytest.approx(1) and loud.share.value == pytest.approx(1 / 3)
    assert loud.confusion.tolist() == [[2, 0, 0]] * 3 and loud.top1.value == pytest.approx(1 / 3)
    assert loud.follows.gain == pytest.approx(0) and not loud.follows.follows


def test_where_the_right_adapter_does_not_help_nothing_recovers_a_part_of_its_gain(found):
    def told(gain, part):
        def way(label, total, gap, share):
            return WaySummary(label, total, 4 + gap.value, gap, gap, share, {})

        def around(value):
            return Interval(value, value - 0.1, value + 0.1)

        ways = [
            way("Base", "", Interval(0, 0, 0), None),
            way("The right adapter alone", "", around(gain), None),
            way("Average", "1", around(gain / 2), part and around(part)),
        ]
        return in_short(NAMES, ways, [], profiles(found))[0]

    helped, not_helped, harmed = told(-0.4, 0.5), told(-0.02, None), told(0.3, None)
    assert "alone lowers the base's loss" in helped and "50.0% [40.0%, 60.0%] of that gap;" in helped
    assert "alone is not shown to lower" in not_helped and "alone raises the base's loss" in harmed
    assert "gap" not in not_helped and "-0.010 [-0.110, +0.090]." in not_helped


def test_the_report_s_figures_draw_every_layer_and_domain(found):
    layers, domains = (block.figure for block in blocks(found, ["made here"]) if isinstance(block, Picture))
    lines = [trace for trace in layers.data if trace.mode == "lines+markers"]
    assert all(len(trace.x) == found.norms.shape[0] for trace in lines)
    assert any(np.array_equal(trace.y, profiles(found)["kl"].by_layer) for trace in lines)
    assert [list(trace.y) for trace in domains.data] == [list(NAMES)] * 2


# --- held-out texts --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toys.write(tmp_path_factory.mktemp("data"))


def test_passages_are_of_rows_that_no_adapter_saw_and_of_one_length(data):
    found = load_passages(choose(("world", "positive"), DOMAINS), data, TOKENIZER, 5)
    assert [each.domain for each in found] == ["world"] * 5 + ["positive"] * 5
    assert {(len(each.ids), each.query) for each in found} == {(TOKENS, QUERY)}
    texts = [TOKENIZER.decode(each.ids) for each in found]
    assert len(set(texts)) == 10
    adapters = [text for text, label in toys.topics() if side(text) == "adapter"]
    assert not [seen for seen in adapters for text in texts if text.startswith(seen + " ")]
    assert found == load_passages(choose(("world", "positive"), DOMAINS), data, TOKENIZER, 5)


def test_a_row_that_an_adapter_saw_is_left_out_of_a_test_file(data):
    source = Source("sst_cased/test.jsonl.gz", "positive")
    rows = list(held_out_rows(source, data, ()))
    left = list(held_out_rows(source, data, {normal(rows[0].upper())}))
    assert left == rows[1:] and len(rows) == len(toys.GOOD) * len(toys.THINGS)


def test_every_domain_s_files_are_its_adapter_s_test_rows():
    recipes = load_recipes()
    assert set(EIGHT) <= set(DOMAINS) <= set(recipes)
    for domain in DOMAINS.values():
        trained = {corpus.file for corpus in recipes[domain.adapter].corpora}
        for source in domain.sources:
            assert source.judge_side == (source.file in trained)
            assert source.file.split("/")[0] in {file.split("/")[0] for file in trained}
        assert domain.separator == recipes[domain.adapter].separator


def test_too_few_rows_name_how_many_there_are(data):
    with pytest.raises(ComposerError, match=r"smaller --per-domain \(at most \d+\)"):
        load_passages(choose(("world", "sports"), DOMAINS), data, TOKENIZER, 5000)


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        gzip.compress(b"not json\n"),
        gzip.compress(b'{"text": "a"}\n'),
        gzip.compress(b'["a"]\n'),
        gzip.compress(b""),
        gzip.compress(b'{"text": "A goal", "label": "sports"}\n')[:-9],
        None,
    ],
    ids=["not gzip", "not json", "no label", "a list", "empty", "cut", "missing"],
)
def test_a_broken_or_missing_file_is_a_sentence(tmp_path, content):
    folder = toys.write(tmp_path)
    path = folder / "sst_cased/test.jsonl.gz"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(
        ComposerError, match=r"sst_cased/test.jsonl.gz is missing from the data folder or broken"
    ):
        load_passages(choose(("world", "positive"), DOMAINS), folder, TOKENIZER, 2)


@pytest.mark.parametrize(
    ("names", "available", "cure"),
    [
        (("wrold", "sports"), DOMAINS, "Did you mean world?"),
        (("world", "poetic"), ("world",), "The domain poetic needs an adapter"),
        (("world", "world"), DOMAINS, "two domains or more"),
        (None, ("positive", "negative"), "two domains or more"),
        ((), DOMAINS, "two domains or more"),
    ],
)
def test_domains_that_cannot_be_tested_name_the_cure(names, available, cure):
    with pytest.raises(ComposerError, match=cure):
        choose(names, available)


def test_without_names_it_is_the_eight_that_have_an_adapter():
    assert tuple(domain.adapter for domain in choose(None, DOMAINS)) == EIGHT and len(EIGHT) == 8
    assert tuple(domain.adapter for domain in choose(None, ("polite", "world", "mine"))) == (
        "world",
        "polite",
    )


def test_settings_compose_every_adapter_at_the_scale_they_name():
    assert SETTINGS["contrast-mean"].composition(NAMES) == Composition(
        dict.fromkeys(NAMES, 1.0), "contrast", strength=1 / 3, contrast=0.5
    )
    assert [name for name, each in SETTINGS.items() if each.method == "kl" and each.total != "N"] == [
        "kl-paper",
        "kl-published",
    ]
