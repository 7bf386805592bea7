"""What visitors may have written: so many tokens a minute, and so many texts at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import wraps
from threading import Lock
from typing import Any

from composer.analysis.explanation import Explanation
from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.ui.settings import Settings


@dataclass
class Usage:
    """What one visitor, or all of them, have used. Plain values: Gradio copies a visitor's state."""

    # Tokens that the minute has not made up for yet, as of `at` (seconds of the clock).
    tokens: float = 0.0
    at: float = 0.0
    # Texts in progress.
    texts: int = 0


class Budgets:
    """The limits of a server, over all its bases. 0: no limit. Thread-safe.

    A budget of tokens drains by a sixtieth of the limit each second: what was not used for a minute may be
    used at once. A text that has begun is written to its end; the next one waits until the excess is gone.
    """

    def __init__(
        self,
        visitor_tokens: int = 0,
        all_tokens: int = 0,
        visitor_texts: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """visitor_tokens, all_tokens: a minute. visitor_texts: of one visitor at the same time."""
        self._visitor_tokens, self._all_tokens = visitor_tokens, all_tokens
        self._visitor_texts = visitor_texts
        self._clock, self._lock, self._all = clock, Lock(), Usage()

    @classmethod
    def of(cls, settings: Settings) -> Budgets:
        """Those that the settings name."""
        return cls(settings.visitor_tokens, settings.all_tokens, settings.visitor_texts)

    def together(self, most: int) -> int:
        """How many texts of one visitor may be in progress, at most `most`."""
        return min(most, self._visitor_texts or most)

    @contextmanager
    def writing(self, usage: Usage, texts: int = 1) -> Iterator[Callable[[int], None]]:
        """While so many texts of a visitor are written; what it gives takes the tokens as they come.

        Raises ComposerError, with when to try again, where a budget is used up.
        """
        with self._lock:
            self._check(usage, texts)
            usage.texts += texts
        try:
            yield lambda tokens: self._spend(usage, tokens)
        finally:
            with self._lock:
                usage.texts -= texts

    def _check(self, usage: Usage, texts: int) -> None:
        if self._visitor_texts and usage.texts + texts > self._visitor_texts:
            raise ComposerError(
                f"You have {usage.texts} in progress of the {self._visitor_texts} texts that a visitor may "
                "have written at the same time; stop one, or try again when one has ended."
            )
        whose = (
            (usage, self._visitor_tokens, "You have"),
            (self._all, self._all_tokens, "All visitors together have"),
        )
        for own, limit, who in whose:
            if limit and (excess := self._drained(own, limit) - limit) >= 0:
                seconds = math.floor(excess * 60 / limit) + 1
                raise ComposerError(
                    f"{who} used up what may be written here, {limit:,} tokens a minute; try again in "
                    f"{seconds} second{'s' if seconds > 1 else ''}."
                )

    def _spend(self, usage: Usage, tokens: int) -> None:
        with self._lock:
            for own, limit in ((usage, self._visitor_tokens), (self._all, self._all_tokens)):
                if limit:
                    own.tokens = self._drained(own, limit) + tokens

    def _drained(self, own: Usage, limit: int) -> float:
        """What is left of the tokens now."""
        now = self._clock()
        own.tokens, own.at = max(own.tokens - (now - own.at) * limit / 60, 0.0), now
        return own.tokens


def metered(method: Callable[..., Any]) -> Callable[..., Any]:
    """A runner's method that writes texts, within the runner's `budgets`. It yields Steps, pairs with
    Steps, or an Explanation of a text that it wrote unless the request had one."""

    @wraps(method)
    def generate(self: Any, request: Any, *given: Any, **named: Any) -> Any:
        requests = [request] if not isinstance(request, Sequence) else request
        if not requests:
            return (yield from method(self, request, *given, **named))
        with (
            self.budgets.writing(requests[0].usage, self.places(requests)) as spend,
            closing(method(self, request, *given, **named)) as items,
        ):
            for item in items:
                event = item[1] if isinstance(item, tuple) else item
                if isinstance(event, Step):
                    spend(1)
                elif isinstance(event, Explanation) and not requests[0].written:
                    spend(len(event.tokens))
                yield item

    return generate
