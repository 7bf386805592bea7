"""Own texts: what is read of each kind of file, and the sentence for each fault of one."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from composer.core.errors import ComposerError
from composer.training.data import IGNORED
from composer.training.own_texts import reader
from composer.training.own_texts.reader import read_texts
from composer.training.own_texts.recitation import Recitation, longest_shared_run
from composer.training.own_texts.sequences import (
    beginning,
    choose_separator,
    count_tokens,
    default_steps,
    sequences,
    split,
)
from tests.tools import tiny

TEXTS = tuple(f"letter number {i} was sealed" for i in range(60))
TOKENIZER = tiny.tokenizer()


def written(folder, name: str, content: str | bytes):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def refusal(folder, name: str, content: str | bytes, column: str = "text") -> str:
    with pytest.raises(ComposerError) as fault:
        read_texts([written(folder, name, content)], column)
    return str(fault.value)


def test_a_text_file_has_a_text_a_line_or_a_paragraph_where_lines_are_blank(tmp_path):
    assert read_texts([written(tmp_path, "lines.txt", "\n" + "\n".join(TEXTS) + "\n\n")]).texts == TEXTS
    verses = tuple(f"{text}\nand sent" for text in TEXTS)
    for name, blank in (("two.txt", "\n\n"), ("spaces.txt", "\n \t\n\n"), ("windows.txt", "\n\n")):
        content = blank.join(verses)
        content = content.replace("\n", "\r\n") if name == "windows.txt" else content
        assert read_texts([written(tmp_path, name, content)]).texts == verses


def test_json_lines_have_theirs_in_a_column(tmp_path):
    rows = "\n\n".join(json.dumps({"body": text, "id": 1}) for text in TEXTS)
    assert read_texts([written(tmp_path, "a.jsonl", rows)], "body").texts == TEXTS
    said = refusal(tmp_path, "a.jsonl", rows)
    assert "a.jsonl, line 1, has no text; it has body, id" in said and "--column" in said


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_rows_have_theirs_below_a_header(tmp_path, mark):
    rows = [f'{i}{mark}"{text}{mark}\n""twice"""' for i, text in enumerate(TEXTS)]
    path = written(tmp_path, "a.csv", "\r\n".join([f"id{mark} text ", *rows]))
    assert read_texts([path]).texts == tuple(f'{text}{mark}\n"twice"' for text in TEXTS)


def test_a_byte_order_mark_is_no_part_of_the_first_text(tmp_path):
    mark = "\ufeff"
    assert read_texts([written(tmp_path, "a.txt", mark + "\n".join(TEXTS))]).texts == TEXTS
    assert read_texts([written(tmp_path, "a.csv", mark + "text\n" + "\n".join(TEXTS))]).texts == TEXTS


def test_a_folder_s_files_are_read_in_order_and_others_are_left(tmp_path):
    written(tmp_path, "b/2.txt", "\n".join(TEXTS[30:]))
    written(tmp_path, "a.CSV", "text\n" + "\n".join(TEXTS[:30]))
    written(tmp_path, ".hidden/3.txt", "never")
    written(tmp_path, "picture.png", b"\x89PNG")
    own = read_texts([tmp_path])
    assert own.texts == TEXTS and own.files == ("a.CSV", "2.txt")


def test_a_text_that_is_there_twice_counts_once(tmp_path):
    own = read_texts([written(tmp_path, "a.txt", "\n".join([*TEXTS, TEXTS[0].upper(), f"  {TEXTS[1]} "]))])
    assert own.texts == TEXTS and own.duplicates == 2


FAULTS = [
    ("a.txt", b"", "a.txt is empty"),
    ("a.txt", " \n\t\n", "a.txt is empty"),
    ("a.txt", b"fine\ncaf\xe9", r"no UTF-8 text \(line 2\)"),
    ("a.txt", "text".encode("utf-16"), "UTF-16: save it as UTF-8"),
    ("a.txt", b"one\ntwo\0", r"NUL character \(line 2\)"),
    ("a.txt", "one\n\ntwo", "At least 50 texts are needed and 2 were found: add more"),
    ("a.txt", "same\n" * 60, r"1 were found \(and 59 duplicates\)"),
    ("a.txt", "x" * 100_001, "line 1, has a text of 100001 characters"),
    ("a.pdf", b"%PDF", "a.pdf is none of .txt, .jsonl, .csv"),
    ("a.jsonl", '{"text": "x"}\n{"text": ', "line 2, is no JSON"),
    ("a.jsonl", "[" * 100_000, "line 1, is no JSON"),
    ("a.jsonl", '["x"]', "line 1, is no object"),
    ("a.jsonl", '{"text": "x"}\n\n{"text": null}', "line 3, has no text in text: put it in quotes"),
    ("a.jsonl", '{"text": "a\\u0000b"}', "line 1, has a character that is none"),
    ("a.jsonl", '{"text": "a\\ud800b"}', "line 1, has a character that is none"),
    ("a.jsonl", "{}", "it has nothing"),
    ("a.csv", "title,body\nx,y", "line 1, has no text; it has title, body: choose one with --column"),
    ("a.csv", 'id,text\n1,"one\nmore"\n2', "line 4, has 1 fields where the header has 2"),
    ("a.csv", 'text\n"one" two', r"a.csv is no CSV \(line 2"),
    ("a.csv", 'text\n"one', r"a.csv is no CSV \(line 2"),
    ("a.csv", f"text\n{'x' * 140_000}", r"a.csv is no CSV \(line 2, field larger"),
]


@pytest.mark.parametrize(("name", "content", "words"), FAULTS, ids=lambda each: str(each)[:30])
def test_a_fault_is_a_sentence_that_names_the_place(tmp_path, name, content, words):
    with pytest.raises(ComposerError, match=words):
        read_texts([written(tmp_path, name, content)])


def test_a_path_that_is_none_and_an_empty_folder_are_told(tmp_path):
    with pytest.raises(ComposerError, match="no file and no folder"):
        read_texts([tmp_path / "none.txt"])
    with pytest.raises(ComposerError, match=r"has no \.txt, \.jsonl, \.csv file"):
        read_texts([tmp_path])


def test_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "LARGEST_MB", 0.001)
    monkeypatch.setattr(reader, "_texts", lambda *_: pytest.fail("it read them"))
    assert "at most 0.001 MB" in refusal(tmp_path, "a.txt", "x" * 2000)


def test_a_long_run_of_blanks_takes_no_time_to_read(tmp_path):
    blanks = " " * 200_000
    path = written(tmp_path, "a.txt", f"{blanks}\n\n".join(TEXTS) + blanks)
    assert read_texts([path]).texts == TEXTS


def test_a_tenth_is_held_out_and_the_seed_says_which():
    training, held_out = split(TEXTS, 1)
    assert len(held_out) == 6 and sorted([*training, *held_out]) == sorted(TEXTS)
    assert split(TEXTS, 1) == (training, held_out) != split(TEXTS, 2)


def test_sequences_hold_every_token_of_a_pass_in_one_length():
    texts = ["abc", "de", "f" * 40]
    got = list(islice(sequences(texts, TOKENIZER, length=8, separator=" ", seed=1), 6))
    # A pass has 3 + 2 + 40 letters and a space between two, and before the next pass: six sequences of eight.
    whole = "".join(TOKENIZER.decode(sample.ids) for sample in got)
    assert sorted(whole) == sorted("".join(text + " " for text in texts))
    assert all(len(sample.ids) == 8 and sample.labels == sample.ids for sample in got)


def test_the_space_between_two_texts_is_part_of_the_next_word_s_token():
    raw = Tokenizer(models.WordLevel({"a": 0, "\u2581a": 1, "\u2581": 2}, unk_token="a"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    [got] = islice(sequences(["a"], tokenizer, length=4, separator=" ", seed=1), 1)
    assert got.ids == (0, 1, 1, 1)


def test_a_sequence_begins_as_a_prompt_does_and_that_carries_no_loss():
    begins = tiny.tokenizer()
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", begins.bos_token_id)]
    )
    assert beginning(TOKENIZER) == () and beginning(begins) == (begins.bos_token_id,)
    [first] = islice(sequences(["abcdef"], begins, length=5, separator=" ", seed=1), 1)
    assert first.ids[0] == begins.bos_token_id and first.labels[0] == IGNORED
    assert begins.decode(first.ids[1:]) == "abcd" and first.labels[1:] == first.ids[1:]


def test_steps_are_three_passes_in_bounds():
    assert default_steps(3_000, 512) == 60
    assert default_steps(20_000, 512) == 118
    assert default_steps(10**7, 512) == 400


def test_texts_of_several_lines_are_apart_by_a_blank_one():
    assert choose_separator(["a", "b"]) == " " and choose_separator(["a", "b\nc"]) == "\n\n"


def test_tokens_are_counted_over_all_parts():
    assert count_tokens(["abc"] * 600, TOKENIZER) == 1800


def test_the_longest_shared_run_ends_where_a_text_ends():
    among = ["The quick brown fox.", "Jumped over it"]
    assert longest_shared_run(["a QUICK,  brown fox jumped"], among) == 3
    assert longest_shared_run(["fox jumped over it again"], among) == 3
    assert longest_shared_run(["nothing of that"], among) == 0
    assert longest_shared_run(["", "rown fo"], among) == 0, "words, not parts of them"


def test_it_recites_only_beyond_what_such_texts_share_anyhow():
    assert Recitation(words=10, held_out_words=9).recites
    assert not Recitation(words=9, held_out_words=0).recites
    assert not Recitation(words=15, held_out_words=15).recites
