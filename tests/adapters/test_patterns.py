"""Patterns of adapter configs: how long they may run, on a machine that has other things to do."""

from __future__ import annotations

import pytest
import regex

from composer.adapters.fit import patterns
from composer.adapters.fit.patterns import Patterns
from composer.core.errors import ComposerError

BOMB = r"(a|aa|a?)+$"
PATHS = [f"layers.{place}.down_proj" for place in range(50)]


class Interrupted:
    """A compiled pattern whose clock has run out, once, while other threads were computing."""

    def __init__(self, text: str):
        self._compiled, self._tries = regex.compile(text), 0

    def fullmatch(self, path: str, **options: object) -> regex.Match | None:
        self._tries += 1
        if self._tries == 1:
            raise TimeoutError
        return self._compiled.fullmatch(path, **options)


def test_a_busy_machine_makes_no_pattern_too_complex(monkeypatch):
    compiled = Interrupted(r"layers\.1.*")
    monkeypatch.setattr(patterns, "_compiled", lambda text: compiled)
    assert Patterns().full("target_modules", "any", "layers.1.down_proj")


def test_time_that_others_have_computed_is_not_a_patterns_own(monkeypatch):
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(patterns.time, "monotonic", lambda: float(next(clock)))
    own = Patterns()
    assert sum(own.full("target_modules", r"layers\.1.*", path) for path in PATHS) == 11


def test_a_bomb_is_still_refused_in_bounded_time():
    own = Patterns(0.2)
    with pytest.raises(ComposerError, match="too complex"):
        own.full("target_modules", BOMB, "a" * 60 + "b")
    with pytest.raises(ComposerError, match="too complex"):
        own.full("target_modules", r"layers\.1.*", "layers.1.down_proj")
