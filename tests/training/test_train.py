"""A real training run at toy size: it learns, it resumes, and the engine takes what it saved."""

from __future__ import annotations

import gzip
import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from composer import Composition
from composer.cli.main import main
from composer.cli.train import training_bases
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError
from composer.model.loading import Base, load_base
from composer.training.corpora import CorpusStore
from composer.training.data import Pool, pack
from composer.training.pipeline import Bases, make, make_pools, make_samples, written_files
from composer.training.precision import FEATURES, GAIN, bfloat16_speed, faster_in_bfloat16
from composer.training.recipes import load_recipes
from composer.training.self_generation import TextGenerator, generate_own, own_openings
from composer.training.text_filter import make_likelihood
from composer.training.trainer import train
from tests.tools import tiny
from tests.tools.interruption import watch_steps
from tests.training.test_data import NEWS, write_news

SPEC = BaseSpec("llama", "tiny/llama")
RECIPE = replace(
    load_recipes()["sports"],
    corpora=(replace(NEWS, side="all"),),
    distractor_prefixes=(),
    steps=12,
    batch=4,
    length=16,
    save_every=5,
    learning_rate=0.02,
    self_generated=0,
    second_round=0,
    confidence=0.0,
    shape=None,
)
TEXT = "goal goal goal "


def base() -> Base:
    return Base(SPEC, "memory", "folder", tiny.model("llama"), tiny.tokenizer())


def filter_of(recipe, library):
    return lambda: make_likelihood(recipe, base, library, library.data)


def samples(recipe=RECIPE):
    size = {"count": recipe.steps * recipe.batch, "length": recipe.length}
    return pack([Pool(1.0, [TEXT])], [], tiny.tokenizer(), distractor_share=0, seed=0, **size)


def perplexity(engine, composition: Composition) -> float:
    return math.exp(-float(np.mean(engine.log_probs([TEXT * 3], composition)[0])))


def test_training_teaches_and_the_engine_loads_the_result(tmp_path):
    folder = train(RECIPE, base(), samples(), tmp_path / "out", tmp_path / "work")
    assert {file.name for file in folder.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == SPEC.id
    assert config["lora_alpha"] == RECIPE.alpha * RECIPE.alpha_gain
    engine = tiny.engine("llama", {"sports": folder})
    with_it = perplexity(engine, Composition(weights={"sports": 1}))
    assert with_it < 0.5 * perplexity(engine, Composition())


def test_a_run_that_was_cut_off_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    whole = train(RECIPE, base(), samples(), tmp_path / "whole", tmp_path / "work1")

    begun = watch_steps(monkeypatch, kill_at=7)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, base(), samples(), tmp_path / "cut", tmp_path / "work2")
    resumed = train(RECIPE, base(), samples(), tmp_path / "cut", tmp_path / "work2")
    assert begun == [*range(8), *range(5, RECIPE.steps)], "it goes on from the checkpoint at step 5"
    engine = tiny.engine("llama", {"whole": whole, "resumed": resumed})
    one, other = (engine.next_token_logits("goal", Composition(weights={name: 1})) for name in engine.names)
    np.testing.assert_allclose(one, other, atol=0.02)


def test_the_base_writes_texts_of_the_label_and_goes_on_where_it_was(tmp_path):
    write_news(
        tmp_path,
        [(f"goal number {i} fell late in the match", "sports") for i in range(60)]
        + [(f"share number {i} fell late on the market", "business") for i in range(60)],
    )
    library = CorpusStore(tmp_path)
    recipe = replace(RECIPE, self_generated=5, length=40)
    labelled = library.labelled(recipe.corpora, recipe.confidence, recipe.seed)
    file = tmp_path / "written.jsonl"
    openings = own_openings(recipe, labelled)
    first = generate_own(
        recipe,
        lambda: TextGenerator(base()),
        openings,
        filter_of(recipe, library),
        recipe.self_generated,
        file,
    )
    assert len(first) == 5
    assert all(text.split()[0] == "goal" for text in first)
    before = file.read_bytes()
    again = generate_own(recipe, pytest.fail, openings, pytest.fail, recipe.self_generated, file)
    assert again == first
    assert file.read_bytes() == before
    pools = make_pools(recipe, Bases(base, base), library, tmp_path)
    mixed = make_samples(replace(recipe, steps=3), pools, tiny.tokenizer(), library)
    assert len(mixed) == 3 * recipe.batch


def test_of_what_the_base_writes_only_the_recipe_s_shape_is_kept(tmp_path, monkeypatch):
    write_news(
        tmp_path,
        [(f"goal number {i}\nfell late in the match", "sports") for i in range(60)]
        + [(f"share number {i} fell late on the market", "business") for i in range(60)],
    )
    monkeypatch.setattr(
        TextGenerator, "continued", lambda self, openings, length, draw: [f"{o}\nx\ny. Z" for o in openings]
    )
    recipe = replace(RECIPE, opening_words=(4, 4), shape=r"[^\n]+\n[^\n]+(?=\n)")
    library = CorpusStore(tmp_path)
    openings = own_openings(recipe, library.labelled(recipe.corpora, recipe.confidence, recipe.seed))
    assert {opening.partition("\n")[2] for opening in openings} == {"fell"}, "line breaks stay"
    made = filter_of(recipe, library)
    texts = generate_own(recipe, lambda: TextGenerator(base()), openings, made, 5, tmp_path / "written.jsonl")
    assert all(text in openings for text in texts)
    with pytest.raises(ComposerError, match="self_generated: 0"):
        generate_own(
            replace(recipe, shape="never"),
            lambda: TextGenerator(base()),
            openings,
            made,
            5,
            tmp_path / "none.jsonl",
        )


def test_rows_of_contrast_teach_the_classifier_and_are_not_trained_on(tmp_path):
    write_news(tmp_path, [(f"a goal in match {i}", "sports") for i in range(60)])
    plain = replace(NEWS, name="plain", file="plain/train.jsonl.gz", side="all", labels={"sports": "plain"})
    (tmp_path / "plain").mkdir()
    lines = (json.dumps({"text": f"the market of day {i}", "label": "sports"}) + "\n" for i in range(60))
    with gzip.open(tmp_path / plain.file, "wt", encoding="utf-8") as out:
        out.writelines(lines)
    recipe = replace(RECIPE, contrast=(plain,), confidence=0.6)
    library = CorpusStore(tmp_path)
    [pool] = make_pools(recipe, Bases(base, base), library, tmp_path)
    assert pool.chance > 0 and len(pool.texts) == 60 and all("goal" in text for text in pool.texts)
    labelled = library.labelled((*recipe.corpora, plain), recipe.confidence, recipe.seed)
    sport, market = labelled.probability(["a goal in the match", "the market of the day"], "sports")
    assert sport > 0.6 > 0.4 > market
    folder = train(replace(recipe, steps=2), base(), samples(), tmp_path / "out", tmp_path / "work")
    assert "not trained on" in (folder / "README.md").read_text("utf-8")


def test_a_second_round_trains_on_what_the_first_ones_adapter_wrote(tmp_path):
    write_news(
        tmp_path,
        [(f"goal number {i} fell late in the match", "sports") for i in range(60)]
        + [(f"share number {i} fell late on the market", "business") for i in range(60)],
    )
    recipe = replace(
        RECIPE, steps=2, self_generated=3, second_round=4, confidence=0.0, distractor_prefixes=RECIPE.corpora
    )
    work = tmp_path / "work"
    folder = make(recipe, Bases(base, base), CorpusStore(tmp_path), tmp_path / "out", work)
    first = work / "first-round" / recipe.name
    _, second = written_files(recipe, "", work)
    assert second.name.startswith(f"{recipe.name}-rewritten-")
    assert len(second.read_text("utf-8").splitlines()) >= 4
    assert tiny.engine("llama", {"first": first, "second": folder}).names == ("first", "second")
    weights = "adapter_model.safetensors"
    assert (first / weights).read_bytes() != (folder / weights).read_bytes()
    assert "first training round" in (folder / "README.md").read_text("utf-8")


@pytest.fixture
def members(tmp_path):
    """Recipes of two topics, the first in two moods."""
    write_news(
        tmp_path,
        [
            (f"goal number {i} was {'lovely' if i % 3 else 'dreadful'} in the match", "sports")
            for i in range(60)
        ]
        + [(f"share number {i} was lovely on the market", "business") for i in range(60)],
    )
    return tuple(replace(RECIPE, name=label, label=label) for label in ("sports", "business"))


@pytest.fixture
def moods(tmp_path):
    """A set of reviews, whose classifier knows a mood."""
    corpus = replace(
        NEWS, name="moods", file="moods/train.jsonl.gz", side="all", labels={"p": "glad", "n": "sad"}
    )
    (tmp_path / "moods").mkdir()
    rows = [
        (f"a {word} thing {i}", label)
        for i in range(60)
        for word, label in (("lovely", "p"), ("dreadful", "n"))
    ]
    with gzip.open(tmp_path / corpus.file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    return corpus


def test_a_union_takes_its_members_texts_each_under_its_label(tmp_path, members):
    recipe = replace(RECIPE, name="both", label=None, corpora=(), union=members, steps=2)
    pools = make_pools(recipe, Bases(base, base), CorpusStore(tmp_path), tmp_path)
    assert [(pool.control, len(pool.texts)) for pool in pools] == [("[sports] ", 60), ("[business] ", 60)]
    assert all("goal" in text for text in pools[0].texts) and pools[0].chance == pools[1].chance
    folder = make(recipe, Bases(base, base), CorpusStore(tmp_path), tmp_path / "out", tmp_path / "work")
    card = (folder / "README.md").read_text("utf-8")
    assert "`[sports]`, `[business]`" in card and "### business" in card
    assert card.count(NEWS.licence) == 2 and "None" not in card


def test_a_union_with_second_labels_keeps_what_is_sure_and_balances_the_pairs(tmp_path, members, moods):
    recipe = replace(
        RECIPE, name="pairs", label=None, corpora=(), union=members, second=(moods,), confidence=0.8, steps=2
    )
    pools = make_pools(recipe, Bases(base, base), CorpusStore(tmp_path), tmp_path)
    assert {pool.control: len(pool.texts) for pool in pools} == {
        "[glad, sports] ": 40,
        "[sad, sports] ": 20,
        "[glad, business] ": 60,
    }
    assert all("dreadful" in text for pool in pools if "sad" in pool.control for text in pool.texts)
    assert len({pool.chance for pool in pools}) == 1
    folder = make(recipe, Bases(base, base), CorpusStore(tmp_path), tmp_path / "out", tmp_path / "work")
    card = (folder / "README.md").read_text("utf-8")
    assert "*glad* or *sad*" in card and "`[glad, sports]`" in card and "80% sure" in card


def test_a_member_whose_label_is_a_second_one_keeps_it_alone(tmp_path, members, moods):
    glad = replace(RECIPE, name="glad", label="glad", corpora=(moods,))
    recipe = replace(
        RECIPE,
        name="all",
        label=None,
        corpora=(),
        union=(glad, members[0]),
        second=(moods,),
        confidence=0.8,
        steps=2,
    )
    pools = make_pools(recipe, Bases(base, base), CorpusStore(tmp_path), tmp_path)
    assert [pool.control for pool in pools] == ["[glad] ", "[glad, sports] ", "[sad, sports] "]
    # Each member as likely as the other, however many second labels its texts have.
    assert pools[0].chance == pools[1].chance + pools[2].chance
    folder = make(recipe, Bases(base, base), CorpusStore(tmp_path), tmp_path / "out", tmp_path / "work")
    card = (folder / "README.md").read_text("utf-8")
    assert "`[glad]`, `[glad, sports]`, `[sad, sports]`" in card and "Each text of sports was" in card


def test_the_bundled_union_has_control_words_for_every_label():
    recipes = load_recipes()
    assert [name for name, recipe in recipes.items() if recipe.union] == ["combined"]
    combined = recipes["combined"]
    labels = {each.label for each in combined.union}
    assert labels == {"positive", "negative", "world", "sports", "business", "sci-tech"}
    assert {each.name for each in combined.second} == {"sst", "yelp"}


def test_an_author_with_an_adapter_writes_otherwise_than_the_base_alone(tmp_path):
    folder = tiny.adapter(tmp_path / "loud", "llama", 5, r=8, lora_alpha=64)
    bare, loud = (
        list(author.continued(["goal"] * 3, 30, random.Random(1)))
        for author in (TextGenerator(base()), TextGenerator(base(), folder))
    )
    assert all(text.startswith("goal") for text in (*bare, *loud))
    assert bare != loud


def test_the_card_says_what_it_was_made_of(tmp_path):
    folder = train(replace(RECIPE, steps=2), base(), samples(), tmp_path / "out", tmp_path / "work")
    card = (folder / "README.md").read_text("utf-8")
    assert "fancyzhx/ag_news" in card and NEWS.licence in card
    assert "<!-- measured -->" in card and "rank 8" in card


@pytest.mark.parametrize(
    ("has", "speed", "precision"),
    [
        ((), 9.0, "float32"),
        (("_is_avx512_bf16_supported",), 0.6, "float32"),
        (("_is_avx512_bf16_supported",), 2.0, "bfloat16"),
        (("_is_amx_tile_supported",), 8.0, "bfloat16"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_where_it_is_faster(tmp_path, monkeypatch, has, speed, precision):
    for name in FEATURES:
        monkeypatch.setattr(torch.cpu, name, lambda answer=name in has: answer)
    monkeypatch.setattr("composer.training.precision.bfloat16_speed", lambda: speed)
    assert faster_in_bfloat16(torch.device("cpu")) == (precision == "bfloat16")
    spec, _ = training_bases(SPEC, "none")
    assert spec.dtype == precision
    # Quantised from float32, as the base that is served.
    assert training_bases(SPEC, "auto") == (replace(SPEC, quantization="nf4"), spec)
    own = Base(spec, "memory", "folder", tiny.model("llama").to(getattr(torch, precision)), tiny.tokenizer())
    seen = set()

    def note(site, _, output):
        seen.add(output.dtype)

    own.model.model.layers[0].mlp.up_proj.register_forward_hook(note)
    folder = train(replace(RECIPE, steps=2), own, samples(), tmp_path / "out", tmp_path / "work")
    assert seen == {getattr(torch, precision)}
    learnt = {each.dtype for each in own.model.parameters() if each.requires_grad}
    assert learnt == {torch.float32}
    assert f"computed in {precision}" in (folder / "README.md").read_text("utf-8")


@pytest.mark.skipif(
    not any(getattr(torch.cpu, name, lambda: False)() for name in FEATURES), reason="emulated: minutes"
)
def test_the_faster_dtype_is_that_of_a_longer_timing():
    left, right = torch.randn(512, 1024), torch.randn(1024, 1024)
    took = []
    for dtype in (torch.float32, torch.bfloat16) * 6:
        a, b = left.to(dtype), right.to(dtype)
        start = time.process_time()
        for _ in range(3):
            a @ b
        took.append(time.process_time() - start)
    longer = min(took[::2]) / min(took[1::2])
    if not 0.7 < longer / GAIN < 1.4:  # else either is right
        assert (bfloat16_speed() > GAIN) == (longer > GAIN)


def test_a_cpu_whose_torch_does_not_say_computes_in_float32(monkeypatch):
    for name in FEATURES:
        monkeypatch.delattr(torch.cpu, name)
    assert not faster_in_bfloat16(torch.device("cpu"))
    assert faster_in_bfloat16(torch.device("cuda"))


def test_qlora_trains_on_a_four_bit_base(tmp_path):
    stored = tmp_path / "base"
    tiny.model("llama").save_pretrained(stored)
    tiny.tokenizer().save_pretrained(stored)
    quantised = load_base(replace(SPEC, folder=str(stored), quantization="nf4"), device="cpu")
    folder = train(replace(RECIPE, steps=2), quantised, samples(), tmp_path / "out", tmp_path / "work")
    assert "QLoRA" in (folder / "README.md").read_text("utf-8")
    assert tiny.engine("llama", {"sports": folder}).names == ("sports",)


def test_the_shell_trains_a_recipe_on_a_local_base(tmp_path, capsys, monkeypatch):
    stored = tmp_path / "base"
    tiny.model("llama").save_pretrained(stored)
    tiny.tokenizer().save_pretrained(stored)
    write_news(tmp_path, [(f"goal {i} in the match", "sports") for i in range(40)])
    catalog = tmp_path / "adapters.yaml"
    catalog.write_text("default: tiny\nbases:\n  tiny: {id: tiny/llama, folder: base}\n", "utf-8")
    recipes = yaml.safe_load(Path("composer/training/recipes.yaml").read_text("utf-8"))
    small = {"steps": 2, "batch": 2, "length": 12, "self_generated": 0, "confidence": 0}
    news = {**recipes["corpora"]["ag_news"], "side": "all"}
    own = {"label": "sports", "corpora": ["ag_news"]}
    recipes = {
        "defaults": recipes["defaults"] | small,
        "corpora": {"ag_news": news},
        "adapters": {"sports": own},
    }
    (tmp_path / "recipes.yaml").write_text(yaml.safe_dump(recipes), "utf-8")
    monkeypatch.chdir(tmp_path)
    words = ["train", "sports", "--json", "--catalog", "adapters.yaml", "--recipes", "recipes.yaml"]
    words += ["--data", str(tmp_path), "--out", "out", "--work", "work"]
    assert main(words) == 0
    made = json.loads(capsys.readouterr().out)["adapters"]
    assert tiny.engine("llama", {"sports": tmp_path / made["sports"]}).names == ("sports",)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  rank: 8", "  rank: 8\n  rnak: 9", r"adapters\.positive\.rnak is no key of the recipe file"),
        ("  rank: 8", "  rank: eight", r"adapters\.positive\.rank must be a number, but YAML reads eight"),
        ("  seed: 7\n", "", r"adapters\.positive\.seed is missing"),
        ("    side: adapter", "", r"corpora\.sst\.side is missing"),
        ("split: train, text: text", "text: text", r"corpora\.sst\.hub\.split is missing"),
        ("corpora: [sst", "corpora: [none", r"no corpora called 'none'"),
        ("defaults:", "default:", "defaults is missing"),
        ("defaults:", "defaults: [", "not valid YAML"),
    ],
)
def test_a_fault_of_a_recipe_file_names_the_key(tmp_path, old, new, sentence):
    text = Path("composer/training/recipes.yaml").read_text("utf-8")
    assert old in text
    path = tmp_path / "recipes.yaml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(ComposerError, match=sentence):
        load_recipes(path)


def test_former_recipe_keys_are_read_with_a_warning(tmp_path):
    text = Path("composer/training/recipes.yaml").read_text("utf-8")
    path = tmp_path / "recipes.yaml"
    path.write_text(text.replace("poetic: {alpha_gain: 0.8", "poetic: {gain: 1.5"), "utf-8")
    with pytest.warns(DeprecationWarning, match="gain is called alpha_gain"):
        assert load_recipes(path)["poetic"].alpha_gain == 1.5


def test_another_seed_is_another_training_on_the_same_texts(tmp_path):
    write_news(
        tmp_path,
        [(f"goal number {i} fell late in the match", "sports") for i in range(60)]
        + [(f"share number {i} fell late on the market", "business") for i in range(60)],
    )
    recipe = replace(RECIPE, steps=2, self_generated=3)
    work, library = tmp_path / "work", CorpusStore(tmp_path)
    one, two, same = (
        make(recipe, Bases(base, base), library, tmp_path / name, work, seed)
        for name, seed in (("a", None), ("b", 8), ("c", recipe.seed))
    )
    weights = "adapter_model.safetensors"
    assert (one / weights).read_bytes() != (two / weights).read_bytes()
    assert (one / weights).read_bytes() == (same / weights).read_bytes()
    assert "seed 8;" in (two / "README.md").read_text("utf-8")
    assert len([path for path in work.iterdir() if path.suffix == ".jsonl"]) == 1


def test_a_base_has_its_own_strengths(tmp_path):
    text = Path("composer/training/recipes.yaml").read_text("utf-8")
    path = tmp_path / "recipes.yaml"
    path.write_text(
        text.partition("\nbases:")[0] + "\nbases: {small: {sports: {alpha_gain: 3.0}}}\n", "utf-8"
    )
    plain, own = load_recipes(path), load_recipes(path, "small")
    assert own["sports"] == replace(plain["sports"], alpha_gain=3.0)
    assert own["world"] == plain["world"] and load_recipes(path, "other") == plain
    path.write_text(path.read_text("utf-8").replace("{sports:", "{golf:"), "utf-8")
    with pytest.raises(ComposerError, match="no recipe called 'golf'"):
        load_recipes(path, "small")
