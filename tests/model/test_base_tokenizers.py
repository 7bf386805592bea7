"""The rules of the tokenizers that people's bases have: what begins a text, what ends it, what is missing."""

from __future__ import annotations

from functools import cache

import pytest
from transformers import GenerationConfig, LlamaConfig

from composer import Engine
from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.model.loading import Base, load_base
from composer.model.tokens import Continuation, check_tokenizer, read_prompt
from tests.tools import tiny
from tests.tools.base_tokenizers import BASES, BaseTokenizer

TEXT = "The quick brown fox"


@cache
def kind(name: str) -> BaseTokenizer:
    return BASES[name]()


def spec(prompting: str = "plain", **more) -> BaseSpec:
    return BaseSpec("mine", "some/base", prompting=prompting, **more)


def ids(name: str, text: str, prompting: str = "plain") -> list[int]:
    base = kind(name)
    return read_prompt(base.made, text, prompting, 200, base.vocabulary)


def token(name: str, text: str) -> int:
    return kind(name).made.convert_tokens_to_ids(text)


@pytest.mark.parametrize("prompting", ["plain", "chat"])
@pytest.mark.parametrize("name", BASES)
def test_every_kind_is_accepted(name, prompting):
    check_tokenizer(kind(name).made, spec(prompting), kind(name).vocabulary)


@pytest.mark.parametrize("prompting", ["plain", "chat"])
@pytest.mark.parametrize("name", BASES)
def test_a_prompt_begins_with_one_first_token_where_the_base_has_one(name, prompting):
    """A chat template writes it, so the tokenizer must not add it again."""
    first, found = kind(name).made.bos_token_id, ids(name, TEXT, prompting)
    assert (first is None) == (name == "qwen")
    assert found[0] == first or name == "qwen"
    assert found.count(first) == (0 if name == "qwen" else 1)


@pytest.mark.parametrize("name", BASES)
def test_a_plain_prompt_is_the_text_and_nothing_after_it(name):
    found, made = ids(name, TEXT), kind(name).made
    assert found[-1] not in made.all_special_ids
    assert made.decode(found, skip_special_tokens=True).strip() == TEXT


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("llama3", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("qwen", "<|im_start|>assistant\n"),
        ("mistral", "[/INST]"),
        ("gemma", "<start_of_turn>model\n"),
    ],
)
def test_a_chat_prompt_ends_where_the_answer_begins(name, end):
    text = kind(name).made.decode(ids(name, TEXT, "chat"), skip_special_tokens=False)
    assert TEXT in text and text.endswith(end)


@pytest.mark.parametrize("name", BASES)
def test_a_continuation_keeps_the_space_between_two_words(name):
    whole = ids(name, TEXT + " jump over")
    prompt = ids(name, TEXT)
    assert whole[: len(prompt)] == prompt
    text = Continuation(kind(name).made, prompt, frozenset())
    *rest, end = whole[len(prompt) :]
    pieces = [*(text.push(each, last=False) for each in rest), text.push(end, last=True)]
    assert "".join(pieces) == " jump over"


@pytest.fixture(scope="module", params=BASES)
def loaded(request, tmp_path_factory) -> tuple[str, Base]:
    """A tiny base with the kind's tokenizer and its list of end tokens, saved and loaded."""
    name = request.param
    base, folder = kind(name), tmp_path_factory.mktemp(name)
    config = LlamaConfig(**{**tiny.COMMON, "vocab_size": base.vocabulary, "eos_token_id": None})
    model = tiny.random(config)
    ends = [token(name, end) for end in base.ends]
    model.generation_config = GenerationConfig(eos_token_id=ends if len(ends) > 1 else ends[0])
    model.save_pretrained(folder)
    base.made.save_pretrained(folder)
    return name, load_base(spec(folder=str(folder)), "cpu")


def test_every_token_of_the_list_ends_a_text(loaded):
    name, base = loaded
    assert base.end_tokens == {token(name, end) for end in kind(name).ends}


def test_texts_of_different_lengths_are_written_side_by_side_without_a_token_that_fills(loaded):
    name, base = loaded
    assert (base.tokenizer.pad_token_id is None) == (name in ("llama3", "mistral"))
    engine = Engine(Catalog(folder=".", default="mine", bases={"mine": base.spec}), base)
    greedy = Sampling(max_new_tokens=6, temperature=0)
    requests = [(prompt, Composition(), greedy) for prompt in (TEXT, TEXT + " jump over the dog", "He")]
    alone = [list(engine.generate(*request))[-1].text for request in requests]
    together = {step.row: step.text for step in engine.generate_rows(requests)}
    assert [together[row] for row in range(len(requests))] == alone


def test_a_token_without_a_row_in_the_model_is_refused_in_a_prompt_and_not_at_load():
    """Gemma 3's smallest text models have no row for the token that stands for an image."""
    base = kind("gemma")
    assert len(base.made) > base.vocabulary
    check_tokenizer(base.made, spec(), base.vocabulary)
    with pytest.raises(ComposerError, match=r"does not know, .image_soft_token.; leave it out"):
        ids("gemma", TEXT + "<image_soft_token>")


def test_a_template_that_refuses_a_system_turn_is_fine_for_what_is_asked():
    with pytest.raises(Exception, match="Only user and assistant"):
        turn = [{"role": "system", "content": "x"}]
        kind("mistral").made.apply_chat_template(turn, tokenize=False)
    check_tokenizer(kind("mistral").made, spec("chat"), kind("mistral").vocabulary)
