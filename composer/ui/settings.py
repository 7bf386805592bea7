"""What whoever runs the page may set: one frozen value, read once from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from composer.spec import ComposerError


@dataclass(frozen=True)
class Settings:
    """Limits and places. Each field's environment variable is named in `VARIABLES`.

    time_limit: wall-clock seconds one generation may take. slots: texts that are written at the same time;
    each takes memory for its keys and values. queue_size: visitors who may wait for one of these places.
    spares: how many adapters visitors may add by id until a restart (0 switches adding off).
    folders: whether an adapter may be added from a folder of the machine the page runs on; only
    sensible where the visitor is its owner. updates_per_second: how often the live view is sent.
    int8: decode with weight-only int8. compiled: compile the decoding step in the background after the start.
    """

    catalog: str = "adapters.yaml"
    base: str | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    max_prompt_chars: int = 4000
    max_new_tokens: int = 200
    time_limit: float = 120.0
    slots: int = 32
    queue_size: int = 16
    spares: int = 4
    folders: bool = False
    updates_per_second: float = 12.0
    int8: bool = False
    compiled: bool = True

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Settings from `env`. Raises ComposerError naming the variable that does not read."""
        host = env.get("HOST") or ("0.0.0.0" if "SPACE_ID" in env else cls.host)
        at_home = "SPACE_ID" not in env and host in ("127.0.0.1", "localhost", "::1")
        return cls(
            catalog=env.get("COMPOSER_CATALOG") or cls.catalog,
            base=env.get("COMPOSER_BASE") or None,
            host=host,
            port=_number(env, "PORT", cls.port, 1, 65535, int),
            max_prompt_chars=_number(env, "COMPOSER_MAX_PROMPT_CHARS", cls.max_prompt_chars, 1, 100_000, int),
            max_new_tokens=_number(env, "COMPOSER_MAX_NEW_TOKENS", cls.max_new_tokens, 1, 4096, int),
            time_limit=_number(env, "COMPOSER_TIME_LIMIT", cls.time_limit, 1, 3600, float),
            slots=_number(env, "COMPOSER_SLOTS", cls.slots, 1, 256, int),
            queue_size=_number(env, "COMPOSER_QUEUE_SIZE", cls.queue_size, 1, 1000, int),
            spares=_number(env, "COMPOSER_MAX_ADDED", cls.spares, 0, 16, int),
            folders=_switch(env, "COMPOSER_LOCAL_FOLDERS", at_home),
            updates_per_second=_number(env, "COMPOSER_UPDATES", cls.updates_per_second, 1, 60, float),
            int8=_switch(env, "COMPOSER_INT8", cls.int8),
            compiled=_switch(env, "COMPOSER_COMPILE", cls.compiled),
        )


VARIABLES: Mapping[str, str] = {
    "HOST": "address to listen on (127.0.0.1; 0.0.0.0 on a Space)",
    "PORT": "port to listen on (7860)",
    "COMPOSER_CATALOG": "the catalog file (adapters.yaml)",
    "COMPOSER_BASE": "name of the catalog's base to load (its default)",
    "COMPOSER_MAX_PROMPT_CHARS": "longest prompt in characters (4000)",
    "COMPOSER_MAX_NEW_TOKENS": "most tokens one request may ask for (200)",
    "COMPOSER_TIME_LIMIT": "seconds one generation may take (120)",
    "COMPOSER_SLOTS": "texts that are written at the same time (32; one on ZeroGPU)",
    "COMPOSER_QUEUE_SIZE": "requests that may wait for a place (16)",
    "COMPOSER_MAX_ADDED": "adapters that visitors may add until a restart (4; 0 = none)",
    "COMPOSER_LOCAL_FOLDERS": "1 lets visitors add an adapter from a folder here (1 only on 127.0.0.1)",
    "COMPOSER_UPDATES": "updates of the live view per second (12)",
    "COMPOSER_INT8": "1 decodes with int8 weights: quicker on a CPU, slightly other texts (0)",
    "COMPOSER_COMPILE": "0 leaves the decoding step uncompiled (1: compiled in the background on a CPU)",
}


def _number(env: Mapping[str, str], name: str, default, low, high, kind):
    text = env.get(name)
    if not text:
        return default
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:  # a NaN fails the comparison too
        raise ComposerError(f"{name} must be a number between {low} and {high}; got {text[:40]!r}.")
    return number


def _switch(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, "").strip().lower()
    if not text:
        return default
    if text not in ("0", "1", "true", "false", "yes", "no"):
        raise ComposerError(f"{name} must be 0 or 1; got {text[:40]!r}.")
    return text in ("1", "true", "yes")
