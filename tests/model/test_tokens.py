"""Between text and tokens: streamed pieces against decoding in one go, for every kind of tokenizer."""

from __future__ import annotations

import os.path
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from composer.adapters.catalog import load_catalog
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError
from composer.model.checkpoints.files import locate
from composer.model.loading import load_base
from composer.model.tokens import Continuation, check_tokenizer, encode_prompt, read_prompt
from tests.tools import tiny
from tests.tools import tokenizers as kinds

SCRIPTS = [
    "日本語の文章です。",
    "한국어 문장",
    "😀😀 👩‍👩‍👧‍👦 🇨🇭🏳️‍🌈",
    "e\u0301a\u0301 नमस्ते ไทยแลนด์",
    "Straße, élève — “quoted”",
    "שלום עולם مرحبا",
    "\ufffd \ufffd\ufffd x",
    "a  b\n\n  c\t\r\n",
    "Hello, it doesn't matter . Really ?",
    "\U0001d518\U0001d52b\U0001d526 \U00013000\U00013001",
]
PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)


@cache
def tokenizer(kind: str):
    if kind == "smollm2":
        folder, _ = locate(load_catalog("adapters.yaml").base())
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return kinds.KINDS[kind]()


def decoded(kind: str, ids: list[int]) -> str:
    return tokenizer(kind).decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def streamed(made, prompt: list[int], tokens: list[int], ends: frozenset[int] = frozenset()) -> list[str]:
    text = Continuation(made, prompt, ends)
    pieces = []
    for place, token in enumerate(tokens, start=1):
        pieces.append(text.push(token, last=place == len(tokens)))
        assert text.text == "".join(pieces)
    return pieces


def added(before: str, whole: str) -> str:
    """What `whole` has beyond the text it shares with `before`."""
    return whole[len(os.path.commonprefix([before, whole])) :]  # noqa: RUF071


EVERY = [*kinds.KINDS, "smollm2"]
# Names of single bytes, by kind: byte fallback's, and the byte alphabet's.
BYTES = {
    "llama2": kinds.BYTES,
    "gemma": kinds.BYTES,
    "byte-level": "bytes",
    "smollm2": "bytes",
    "slow": "bytes",
    "stripping": "bytes",
}


def of_bytes(kind: str, raw: bytes) -> list[int]:
    made = tokenizer(kind)
    if kind in ("slow", "stripping"):
        return list(raw)
    if BYTES[kind] is kinds.BYTES:
        return [made.convert_tokens_to_ids(kinds.BYTES[byte]) for byte in raw]
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [made.convert_tokens_to_ids(bytes_to_unicode()[byte]) for byte in raw]


def runs(kind: str) -> st.SearchStrategy[list[int]]:
    """Token ids: any of the vocabulary, names of nothing, texts, whole and broken byte runs, specials."""
    made = tokenizer(kind)
    slow = kind in ("slow", "stripping")
    any_token = st.integers(0, len(made) - 1 + (0 if slow else 9))
    parts = [
        st.lists(any_token, max_size=8),
        st.sampled_from(made.all_special_ids).map(lambda token: [token]),
        st.sampled_from(SCRIPTS).map(lambda text: made(text, add_special_tokens=False)["input_ids"]),
    ]
    if kind in BYTES:
        text = st.sampled_from(SCRIPTS).map(str.encode)
        cut = st.tuples(text, st.integers(0, 12), st.integers(1, 12)).map(lambda t: t[0][t[1] :][: t[2]])
        parts += [part.map(lambda raw: of_bytes(kind, raw)) for part in (text, cut, st.binary(max_size=6))]
    return st.lists(st.one_of(parts), max_size=6).map(lambda lists: [token for own in lists for token in own])


@pytest.mark.parametrize("kind", EVERY)
def test_pieces_joined_are_the_whole_text_without_the_prompt(kind):
    @PROPERTY
    @given(runs(kind), runs(kind))
    def holds(prompt, tokens):
        pieces = streamed(tokenizer(kind), prompt, tokens)
        whole = decoded(kind, prompt + tokens)
        assert "".join(pieces) == (added(decoded(kind, prompt), whole) if tokens else "")

    holds()


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("text", SCRIPTS)
def test_a_text_cut_anywhere_goes_on_where_its_characters_were_whole(kind, text):
    ids = tokenizer(kind)("So: " + text + " end", add_special_tokens=False)["input_ids"]
    whole = decoded(kind, ids)
    for cut in range(1, len(ids)):
        pieces = streamed(tokenizer(kind), ids[:cut], ids[cut:])
        before = decoded(kind, ids[:cut])
        assert "".join(pieces) == added(before, whole)
        assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@pytest.mark.parametrize("kind", ["llama2", "gemma", "byte-level", "smollm2", "slow"])
@pytest.mark.parametrize("text", ["日本語", "한국어", "😀😀", "👩‍👩‍👧‍👦"])
def test_bytes_of_characters_arrive_once_and_whole(kind, text):
    made = tokenizer(kind)
    prompt = made("Write:", add_special_tokens=False)["input_ids"]
    pieces = streamed(made, prompt, of_bytes(kind, text.encode()))
    assert "".join(pieces) == text
    if kind not in ("llama2", "gemma"):
        # Byte fallback is known to be right only when its run has ended.
        assert pieces[: len(text[0].encode())] == [""] * (len(text[0].encode()) - 1) + [text[0]]


@pytest.mark.parametrize("kind", ["llama2", "gemma"])
def test_a_byte_run_is_shown_as_soon_as_it_has_ended_and_never_taken_back(kind):
    made = tokenizer(kind)
    dot = made.convert_tokens_to_ids(".")
    whole = of_bytes(kind, "日".encode())
    assert streamed(made, [dot], [*whole, dot, dot]) == ["", "", "", "日.", "."]
    assert streamed(made, [dot], [*whole, whole[0], dot]) == ["", "", "", "", "\ufffd" * 4 + "."]
    assert streamed(made, [dot], whole[:2]) == ["", "\ufffd\ufffd"], "half a character, as it stands"
    special = made.convert_tokens_to_ids("<|im_end|>")
    assert "".join(streamed(made, [dot], [whole[0], special, *whole[1:], len(made) + 3, dot])) == "日."


@pytest.mark.parametrize("kind", EVERY)
def test_end_tokens_are_not_shown_and_what_they_leave_open_is(kind):
    made = tokenizer(kind)
    ids = made("The quick brown fox", add_special_tokens=False)["input_ids"]
    prompt, tokens = ids[:1], ids[1:]
    end = next(token for token in range(20, len(made)) if token not in ids and decoded(kind, [token]))
    shown = "".join(streamed(made, prompt, [*tokens, end], frozenset({end})))
    assert shown == "".join(streamed(made, prompt, tokens))


class Counting:
    """Passes on to a tokenizer and counts the tokens it is given to decode."""

    def __init__(self, made):
        self._made, self.count = made, 0

    def decode(self, ids, **how):
        self.count += len(ids)
        return self._made.decode(ids, **how)

    def convert_ids_to_tokens(self, token):
        return self._made.convert_ids_to_tokens(token)


def shapes(kind: str) -> dict[str, list[int]]:
    """What a model may go on with for ever: 400 tokens or so of each."""
    made = tokenizer(kind)
    long = made(" ".join(SCRIPTS * 4), add_special_tokens=False)["input_ids"][:400]
    without_eos = {"text": long, "special": made.all_special_ids[:1] * 400}
    without_eos["one token"] = made("fox", add_special_tokens=False)["input_ids"][-1:] * 400
    if kind not in ("slow", "stripping"):
        without_eos["nothing"] = [len(made) + 5] * 400
    if kind in BYTES:
        without_eos["broken bytes"] = of_bytes(kind, b"\xe6\x97\xff" * 133)
        without_eos["emoji"] = of_bytes(kind, "😀".encode() * 100)
        without_eos["lines"] = of_bytes(kind, b"\n" * 400) if kind != "stripping" else long
    return without_eos


@pytest.mark.parametrize("kind", EVERY)
def test_the_work_of_decoding_is_linear_in_the_tokens(kind):
    made = tokenizer(kind)
    prompt = made("The quick brown fox " * 20, add_special_tokens=False)["input_ids"]
    for name, tokens in shapes(kind).items():
        counting = Counting(made)
        streamed(counting, prompt, tokens)
        # Every token by itself, in its window, and as the next window; broken ones in windows of some dozen.
        limit = 60 if name == "broken bytes" else 14
        assert counting.count <= limit * len(tokens), name


class Broken:
    """A tokenizer that raises what it is told to."""

    def __init__(self, fault: BaseException):
        self._fault = fault

    def __call__(self, *_args, **_kwargs):
        raise self._fault

    decode = apply_chat_template = __call__

    def convert_ids_to_tokens(self, token):
        return "x"


class PanicException(BaseException):
    """As the tokenizers library's: its class cannot be imported."""


FAULTS = [TypeError("x"), ValueError("x"), OverflowError("x"), KeyError("x"), PanicException("x")]


@pytest.mark.parametrize("prompting", ["plain", "chat"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_tokenizer_that_raises_is_one_sentence(fault, prompting):
    with pytest.raises(ComposerError, match=r"^The base's .*this prompt.*\.$"):
        read_prompt(Broken(fault), "abc", prompting, 100)
    with pytest.raises(ComposerError, match=r"read the drawn tokens back"):
        Continuation(Broken(fault), [1], frozenset())


def test_an_interrupt_is_not_taken_for_a_fault_of_the_tokenizer():
    with pytest.raises(KeyboardInterrupt):
        encode_prompt(Broken(KeyboardInterrupt()), "abc", "plain")


def test_a_prompt_without_a_token_is_refused():
    with pytest.raises(ComposerError, match="other characters"):
        read_prompt(lambda prompt: {"input_ids": []}, "\u200b\u0001", "plain", 100)


def spec(prompting: str) -> BaseSpec:
    return BaseSpec("mine", "some/base", prompting=prompting)


def with_template(template: str | dict):
    made = kinds.byte_level()
    made.chat_template = template
    return made


GOOD = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEMPLATES = {
    "none": None,
    "empty": "",
    "of another kind": {"rag": GOOD},
    "of broken syntax": "{% for m in messages %}",
    "that wants a system's turn": "{{ raise_exception('System role required') }}",
    "that wants what is not there": "{{ messages[1].content }}",
    "that divides by zero": "{{ 1 / 0 }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_unusable_chat_template_is_reported_at_load_with_its_key(name):
    with pytest.raises(
        ComposerError, match=r"base mine .*chat.*template.*`prompting: plain`.*\(bases, mine\)\.$"
    ):
        check_tokenizer(with_template(TEMPLATES[name]), spec("chat"), 1000)
    check_tokenizer(with_template(TEMPLATES[name]), spec("plain"), 1000)


def test_a_template_that_only_some_prompts_break_is_a_sentence_when_they_come():
    picky = with_template("{% if 'x' in messages[0].content %}{{ raise_exception('no') }}{% endif %}" + GOOD)
    check_tokenizer(picky, spec("chat"), 1000)
    assert read_prompt(picky, "abc", "chat", 100)
    with pytest.raises(ComposerError, match=r"chat template cannot take this prompt"):
        read_prompt(picky, "xyz", "chat", 100)


@pytest.mark.parametrize("broken", [None, 7, Broken(TypeError("x")), Broken(PanicException("x"))])
@pytest.mark.parametrize("prompting", ["plain", "chat"])
def test_an_unusable_tokenizer_is_reported_at_load(broken, prompting):
    with pytest.raises(ComposerError, match=r"base mine has no tokenizer"):
        check_tokenizer(broken, spec(prompting), 1000)


def test_a_tokenizer_of_another_vocabulary_is_reported_at_load():
    made = kinds.byte_level()
    check_tokenizer(made, spec("plain"), made.vocab_size)
    with pytest.raises(ComposerError, match=rf"more tokens than its model, which has {made.vocab_size - 1};"):
        check_tokenizer(made, spec("plain"), made.vocab_size - 1)


def test_a_token_beyond_the_models_is_refused_in_the_prompt_that_has_it():
    made = kinds.byte_level()
    known = made.convert_tokens_to_ids("<tool>")
    assert read_prompt(made, "a <tool> b", "plain", 100, known + 1)
    with pytest.raises(ComposerError, match=r"does not know, .tool.; leave it out"):
        read_prompt(made, "a <tool> b", "plain", 100, known)


def test_a_base_that_is_loaded_has_its_tokenizer_checked(tmp_path):
    tiny.model("llama").save_pretrained(tmp_path)
    kinds.llama2().save_pretrained(tmp_path)
    with pytest.raises(ComposerError, match="more tokens than its model"):
        load_base(BaseSpec("mine", "some/base", folder=str(tmp_path)), "cpu")
    tiny.tokenizer().save_pretrained(tmp_path)
    load_base(BaseSpec("mine", "some/base", folder=str(tmp_path)), "cpu")
    with pytest.raises(ComposerError, match="prompting: plain"):
        load_base(BaseSpec("mine", "some/base", folder=str(tmp_path), prompting="chat"), "cpu")
