"""Tokenizer files of strangers: loaded, or refused in a sentence, in bounded time and memory."""

from __future__ import annotations

import copy
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from composer.model.checkpoints.tokenizer_files import TokenizerFault, check_tokenizer_files
from composer.model.checkpoints.tokenizer_rules import slow_regex, slow_template
from tests.hostile.readers import TOKENIZER, outcome
from tests.tools import base_tokenizers, tokenizers

# Seconds; the machine may be busy.
LONGEST = 10
FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def at(*keys: str | int, value: object) -> Callable[[dict], None]:
    """Puts a value at a place of the document of both files."""

    def change(given: dict) -> None:
        for key in keys[:-1]:
            given = given[key]
        given[keys[-1]] = value

    return change


def replacement(content: str, count: int, pattern: dict) -> Callable[[dict], None]:
    rules = [{"type": "Replace", "pattern": pattern, "content": content}] * count
    return at(FILE, "normalizer", "normalizers", value=rules)


def regex(pattern: str) -> Callable[[dict], None]:
    return at(FILE, "pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": pattern})


def deep(levels: int) -> str:
    return json.dumps(TOKENIZER[FILE])[:-1] + ', "x": ' + "[" * levels + "]" * levels + "}"


ADDED = TOKENIZER[FILE]["added_tokens"][0]
TEMPLATE = (SETTINGS, "chat_template")
# What was changed -> what the sentence says.
FAULTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "cut short": (at(FILE, value=json.dumps(TOKENIZER[FILE])[:400]), "damaged or cut short"),
    "empty": (at(FILE, value=" "), "damaged or cut short"),
    "a hundred thousand deep": (at(FILE, value=deep(100_000)), "damaged or cut short"),
    "a list": (at(FILE, value=[]), "no mapping"),
    "a name twice": (at(FILE, value='{"model": {}, "model": {}}'), "damaged or cut short"),
    "no model": (at(FILE, "model", value=None), "no vocabulary"),
    "a vocabulary of numbers": (at(FILE, "model", "vocab", value=7), "no vocabulary"),
    "a text for an id": (at(FILE, "model", "vocab", "a", value="0"), "no id"),
    "a negative id": (at(FILE, "model", "vocab", "a", value=-1), "no id"),
    "an id of 2^63": (at(FILE, "model", "vocab", "a", value=2**63), "no id"),
    "one id twice": (at(FILE, "model", "vocab", "a", value=1), "two tokens"),
    "an added id twice": (at(FILE, "added_tokens", value=[ADDED, {**ADDED, "content": "x"}]), "two tokens"),
    "a huge token": (at(FILE, "model", "vocab", value={"x" * 5000: 0}), "longer than 2000"),
    "a huge added token": (at(FILE, "added_tokens", value=[{**ADDED, "content": "x" * 5000}]), "longer than"),
    "an added token of nothing": (at(FILE, "added_tokens", value=[{"id": 8}]), "no text"),
    "added tokens as a text": (at(FILE, "added_tokens", value="<end>"), "no list"),
    "an added id out of range": (at(SETTINGS, "added_tokens_decoder", value={"9" * 30: {}}), "out of range"),
    "an added id that is no number": (at(SETTINGS, "added_tokens_decoder", value={"x": {}}), "no id"),
    "nested repetitions": (regex("(a+)+$"), "may take years"),
    "a repeated choice": (regex("(?:a|aa)*b"), "may take years"),
    "a regex of itself": (regex(r"(?<x>a\g<x>?)"), "may take years"),
    "a long regex": (regex("a" * 5000), "longer than 4000"),
    "a text a megabyte for a space": (replacement("x" * 10**6, 1, {"String": " "}), "more than 256"),
    "sixty doublings": (replacement("aa", 60, {"String": "a"}), "many times as long"),
    "doublings by regex": (replacement("aa", 60, {"Regex": ""}), "many times as long"),
    "filled to 10^12": (at(FILE, "padding", value={"strategy": {"Fixed": 10**12}}), "out of range"),
    "another folder's file": (at(SETTINGS, "vocab_file", value="/etc/passwd"), "another folder"),
    "a folder up": (at(SETTINGS, "fast_tokenizer_files", value=["../../tokenizer.json"]), "another folder"),
    "a class of no name": (at(SETTINGS, "tokenizer_class", value=["x"]), "kind of tokenizer"),
    "a template of numbers": (at(*TEMPLATE, value=[1]), "no text"),
    "a template cut short": (at(*TEMPLATE, value="{% for m in"), "no template"),
    "a multiplied text": (at(*TEMPLATE, value="{{ 'x' * messages|length * 9 }}"), "multiplies"),
    "a power": (at(*TEMPLATE, value="{{ 9 ** 9 ** 9 }}"), "multiplies"),
    "a wide text": (at(*TEMPLATE, value="{{ '%999999999d' % 1 }}"), "up to a width"),
    "a wide center": (at(*TEMPLATE, value="{{ 'x' | center(999) }}"), "uses center"),
    "a long range": (at(*TEMPLATE, value="{% for x in range(99999) %}x{% endfor %}"), "number above 1000"),
    "ranges in ranges": (
        at(*TEMPLATE, value="{% for x in range(9) %}" * 3 + "x" + "{% endfor %}" * 3),
        "more than 2 deep",
    ),
    "loops in loops": (at(*TEMPLATE, value="{% for x in messages %}" * 5 + "{% endfor %}" * 5), "4 deep"),
}


def read(folder: Path, change: Callable[[dict], object] = lambda given: None) -> str:
    given = copy.deepcopy(TOKENIZER)
    change(given)
    return outcome("tokenizer", json.dumps(given).encode(), folder)


def test_the_files_without_a_fault_are_read(tmp_path):
    assert read(tmp_path) == "ok"


@pytest.mark.parametrize("fault", FAULTS)
def test_hostile_files_are_refused_before_transformers_sees_them(fault, tmp_path, monkeypatch):
    change, words = FAULTS[fault]

    def opened(*args, **options):
        raise AssertionError("transformers was asked")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", opened)
    began = time.process_time()
    said = read(tmp_path, change)
    assert time.process_time() - began < LONGEST
    assert words in said and said.isprintable() and str(tmp_path) not in said
    assert said.startswith("The base owner/base was found (folder) but could not be loaded, because ")
    assert said.endswith("; repair the files of its folder and start again, or choose another base.")


@pytest.mark.parametrize("name", [FILE, SETTINGS, "vocab.json", "config.json", "chat_template.jinja"])
def test_a_file_larger_than_any_is_refused_unread(name, tmp_path):
    with (tmp_path / name).open("wb") as file:
        file.truncate(10**9)  # a hole: the disk keeps nothing of it
    tracemalloc.start()
    try:
        with pytest.raises(TokenizerFault, match=f"its {name} is no file of at most"):
            check_tokenizer_files(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_folder_in_a_file_s_place_is_refused(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(TokenizerFault, match="is no file"):
        check_tokenizer_files(tmp_path)


def test_code_that_a_base_brings_is_not_run(tmp_path):
    """Neither run nor asked about: a question at the terminal would make a server wait."""
    ran = tmp_path / "ran"
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}

    def change(given: dict) -> None:
        given[SETTINGS].update(own)
        base = tmp_path / "base"
        base.mkdir()
        (base / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: ...\n")

    read(tmp_path, change)
    assert not ran.exists()


def test_a_panic_of_the_tokenizers_library_is_a_sentence(tmp_path, monkeypatch):
    panic = type("PanicException", (BaseException,), {})

    def opened(*args, **options):
        raise panic("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", opened)
    assert "because its tokenizer cannot be read; repair" in read(tmp_path)


@pytest.mark.parametrize("name", [*tokenizers.KINDS, *base_tokenizers.BASES])
def test_tokenizers_of_every_kind_have_nothing_that_is_refused(name, tmp_path):
    if name in ("slow", "stripping"):
        pytest.skip("written in Python; it has no file")
    made = base_tokenizers.BASES[name]().made if name in base_tokenizers.BASES else tokenizers.KINDS[name]()
    made.save_pretrained(tmp_path)
    check_tokenizer_files(tmp_path)


# Those of GPT-2, Llama 3, GPT-4o and the Qwens, DeepSeek, BLOOM and CLIP.
REAL = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+",
    r" ?[^(\s|[.,!?…。、।])]+",
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"\d{3}(?=(\d{3})*\b)",
)


@pytest.mark.parametrize("pattern", REAL)
def test_patterns_of_real_tokenizers_are_let_through(pattern):
    assert slow_regex(pattern) is None


SLOW = ("(a+)+b", "[ab]+{2,}a", "(?:a?a)+!", "(a|aa){30}b", "(a+)?{2,}b", "((a){1,3})*!", "a+?{9}b")


@pytest.mark.parametrize("pattern", SLOW)
def test_patterns_that_double_with_each_character_are_refused(pattern):
    assert "may take years" in slow_regex(pattern)


PIECES = ("a", "b", "[ab]", ".", "(", "(?:", ")", "|", "*", "+", "?", "{2,}", "{1,20}")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12))
@example(["(", ")", "[ab]", "+", "{2,}", "a"])
def test_a_pattern_that_is_let_through_is_quick_where_others_double(pieces):
    pattern = "".join(pieces)
    if slow_regex(pattern):
        return
    try:
        rule = pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception:
        return  # no regular expression: loading it fails
    for text in ("a" * 40 + "!", "ab" * 20 + "!", "b" * 39 + "\n"):
        began = time.process_time()
        rule.pre_tokenize_str(text)
        assert time.process_time() - began < 1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60).map(lambda text: "{{" + text) | st.text(max_size=60))
def test_any_template_is_read_or_refused(text):
    reason = slow_template(text)
    assert reason is None or reason.isprintable()
