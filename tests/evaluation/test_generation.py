"""Texts made in one running batch: best-of-n gives one text a job, its best one."""

from dataclasses import replace

import pytest

from composer.core.catalog_types import Attribute
from composer.core.composition import Composition, Sampling
from composer.evaluation import generation
from composer.evaluation.best_of_n import best_of_n
from composer.evaluation.generation import GenerationJob, best_texts, generate_texts
from tests.tools import tiny

SAMPLING = Sampling(max_new_tokens=6)
ASKED = {"weights": {"a": 2.0, "c": 1.0}}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    place = tmp_path_factory.mktemp("generation")
    folders = {name: tiny.adapter(place / name, "llama", seed) for seed, name in enumerate("abc")}
    return tiny.engine("llama", folders, (Attribute("mood", "Mood", ("a", "b")),))


def jobs():
    """Two jobs with the best of four, and one without."""
    return [
        GenerationJob("one", "The fox", "The fox", 3, ASKED, 4),
        GenerationJob("plain", "The fox", "The fox", 3, ASKED),
        GenerationJob("two", "A dog", "A dog", 5, ASKED, 4),
    ]


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_a_job_s_text_is_the_best_of_its_texts_however_many_are_written_at_a_time(engine, slots):
    found = {text.key: text for text in best_texts(engine, jobs(), SAMPLING, slots)}
    assert set(found) == {"one", "plain", "two"}
    for key, prompt, seed in (("one", "The fox", 3), ("two", "A dog", 5)):
        best = best_of_n(engine, prompt, Composition(**ASKED), Sampling(max_new_tokens=6, seed=seed), 4)[0]
        assert (found[key].continuation, found[key].seed) == (best.continuation, seed)
    assert found["plain"].continuation != found["one"].continuation
    results = list(generate_texts(engine, jobs(), (), SAMPLING))
    assert sorted(each.key for each in results) == sorted([*found, *found])  # a text and a score each


def test_a_job_without_a_text_says_why_once(engine):
    [text] = best_texts(engine, [GenerationJob("long", "x", "x" * 500, 0, ASKED, 3)], SAMPLING, 8)
    assert text.key == "long" and text.fault and not text.continuation


def test_a_text_that_failed_is_not_chosen(engine, monkeypatch):
    made = generation.continue_texts

    def some_fail(*given):
        for text in made(*given):
            failed = text.key.endswith(("0", "2"))
            yield replace(text, continuation="", fault="It failed.") if failed else text

    monkeypatch.setattr(generation, "continue_texts", some_fail)
    [text] = best_texts(engine, jobs()[:1], SAMPLING, 8)
    assert text.key == "one" and text.fault is None and text.continuation
