"""The tokenizer converted from Gemma's GGUF file, against the ids that llama.cpp reads from the same file."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from composer.adapters.catalog import load_catalog
from composer.model.checkpoints.files import is_here, locate
from composer.model.tokens import Continuation, read_prompt

SPEC = load_catalog("adapters.yaml").base("gemma3-270m")
BOS = 2
# xllamacpp 2026.10 on gemma-3-270m-q4_k_m.gguf, special tokens added and none parsed.
IDS = {
    "": [],
    "Hello world": [9259, 1902],
    " Hello": [26352],
    "  Hello": [138, 9259],
    "a\nb": [236746, 107, 236763],
    "a\n\nb\n": [236746, 108, 236763, 107],
    "\t\tx": [255969, 236781],
    "x   y    z": [236781, 139, 236762, 140, 236802],
    "trailing  \n": [136697, 138, 107],
    "\r\nwindows\r\n": [251, 107, 33908, 251, 107],
    "\n\n\n\n\n\n\n\n\n\n\n\nz": [118, 236802],
    "naïve café — “quotes” … €": [1789, 238527, 560, 33443, 2192, 999, 52231, 236919, 7881, 11361],
    "日本語のテキスト": [94951, 236945, 95830],
    # No token has these letters, so each is spelled in bytes.
    "𐍈𐍉": [478, 382, 379, 374, 478, 382, 379, 375],
    "\x00x": [238, 236781],
    "x**2\n    3.14": [236781, 1018, 236778, 107, 140, 236800, 236761, 236770, 236812],
}

pytestmark = pytest.mark.skipif(not is_here(SPEC), reason="python -m composer fetch gemma3-270m")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(locate(SPEC)[0], local_files_only=True)


@pytest.mark.parametrize("text", IDS)
def test_the_ids_are_those_of_the_file(text, tokenizer):
    assert tokenizer(text)["input_ids"] == [BOS, *IDS[text]]


@pytest.mark.parametrize("text", [text for text in IDS if text])
def test_its_pieces_spell_the_text(text, tokenizer):
    stream = Continuation(tokenizer, [BOS], frozenset())
    ids = IDS[text]
    pieces = [stream.push(token, last=place == len(ids)) for place, token in enumerate(ids, start=1)]
    assert "".join(pieces) == text


def test_a_prompt_begins_with_one_bos(tokenizer):
    assert read_prompt(tokenizer, "Hello world", SPEC.prompting, 100, len(tokenizer)) == [BOS, 9259, 1902]
    assert tokenizer.bos_token_id == BOS and tokenizer.eos_token_id == 1
