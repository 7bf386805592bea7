"""The settings of the page: one frozen value, read once from environment variables and options."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields

from composer.adapters.files import LIMIT_MB, LIMIT_VARIABLE
from composer.core.errors import ComposerError
from composer.core.shell import Parser

PREFIX = "COMPOSER_"
# Reads a text; raises ValueError with what it must be.
Read = Callable[[str], object]


def _setting(default: object, variable: str, read: Read, help: str, secret: bool = False) -> Field:
    """A field with its environment variable; its option is named alike (COMPOSER_SLOTS, --slots).

    secret: no message quotes its value."""
    metadata = {"variable": variable, "read": read, "help": help, "secret": secret}
    return field(default=default, metadata=metadata)


def _number(kind: type, low: float, high: float) -> Read:
    def read(text: str) -> object:
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:  # a NaN fails the comparison too
            raise ValueError(f"a number between {low} and {high}")
        return number

    return read


def _switch(text: str) -> bool:
    word = text.strip().lower()
    if word not in ("0", "1", "true", "false", "yes", "no"):
        raise ValueError("0 or 1")
    return word in ("1", "true", "yes")


def _login(text: str) -> tuple[str, str]:
    name, colon, password = text.strip().partition(":")
    if not (name and colon and password):
        raise ValueError("a name and a password with a colon between them")
    return name, password


@dataclass(frozen=True)
class Settings:
    """Limits and places, each with the environment variable and the option that set it."""

    catalog: str = _setting("adapters.yaml", "COMPOSER_CATALOG", str, "the catalog file (adapters.yaml)")
    base: str | None = _setting(
        None, "COMPOSER_BASE", str, "name of the catalog's base to load (its default)"
    )
    host: str = _setting(
        "127.0.0.1", "HOST", str.strip, "address to listen on (127.0.0.1; 0.0.0.0 on a Space)"
    )
    port: int = _setting(7860, "PORT", _number(int, 1, 65535), "port to listen on (7860)")
    max_prompt_chars: int = _setting(
        4000,
        "COMPOSER_MAX_PROMPT_CHARS",
        _number(int, 1, 100_000),
        "longest prompt in characters (4000)",
    )
    max_new_tokens: int = _setting(
        200, "COMPOSER_MAX_NEW_TOKENS", _number(int, 1, 4096), "most tokens one request may ask for (200)"
    )
    time_limit: float = _setting(
        120.0, "COMPOSER_TIME_LIMIT", _number(float, 1, 3600), "seconds one generation may take (120)"
    )
    # Each takes memory for its keys and values.
    slots: int = _setting(
        32,
        "COMPOSER_SLOTS",
        _number(int, 1, 256),
        "texts that are written at the same time (32; one on ZeroGPU)",
    )
    kv_tokens: int = _setting(
        0,
        "COMPOSER_KV_TOKENS",
        _number(int, 0, 100_000_000),
        "tokens of running texts and their prompts that memory holds at once; others wait (0: no limit)",
    )
    queue_size: int = _setting(
        16, "COMPOSER_QUEUE_SIZE", _number(int, 1, 1000), "requests that may wait for a place (16)"
    )
    max_added: int = _setting(
        4,
        "COMPOSER_MAX_ADDED",
        _number(int, 0, 16),
        "adapters that each visitor may add (4; 0 = none)",
    )
    visitor_mb: float = _setting(
        400,
        "COMPOSER_VISITOR_MB",
        _number(float, 1, 1_000_000),
        "megabytes of memory that one visitor's adapters may take (400)",
    )
    added_mb: float = _setting(
        2000,
        "COMPOSER_ADDED_MB",
        _number(float, 1, 1_000_000),
        "megabytes of memory for all visitors' adapters; the least recently used make room (2000)",
    )
    added_disk_mb: float = _setting(
        4000,
        "COMPOSER_ADDED_DISK_MB",
        _number(float, 1, 1_000_000),
        "megabytes of disk for all visitors' adapters; the least recently used make room (4000)",
    )
    # Only sensible where the visitor is the machine's owner.
    folders: bool = _setting(
        False,
        "COMPOSER_LOCAL_FOLDERS",
        _switch,
        "1 lets visitors add an adapter from a folder here (1 only on 127.0.0.1)",
    )
    updates_per_second: float = _setting(
        12.0, "COMPOSER_UPDATES", _number(float, 1, 60), "updates of the live view per second (12)"
    )
    int8: bool = _setting(
        False,
        "COMPOSER_INT8",
        _switch,
        "1 decodes with int8 weights: quicker on a CPU, slightly other texts (0)",
    )
    compiled: bool = _setting(
        True,
        "COMPOSER_COMPILE",
        _switch,
        "0 leaves the decoding step uncompiled (1: compiled in the background on a CPU)",
    )
    max_adapter_mb: float = _setting(
        LIMIT_MB,
        LIMIT_VARIABLE,
        _number(float, 1, 1_000_000),
        f"megabytes that the weights of an added adapter may have ({LIMIT_MB})",
    )
    max_bases: int = _setting(
        2,
        "COMPOSER_MAX_BASES",
        _number(int, 1, 16),
        "bases that are loaded at the same time; 1 leaves the menu out (2; one on ZeroGPU)",
    )
    visitor_tokens: int = _setting(
        0,
        "COMPOSER_VISITOR_TOKENS",
        _number(int, 0, 100_000_000),
        "tokens that one visitor may have written in a minute (0: no limit)",
    )
    all_tokens: int = _setting(
        0,
        "COMPOSER_ALL_TOKENS",
        _number(int, 0, 100_000_000),
        "tokens that all visitors together may have written in a minute (0: no limit)",
    )
    visitor_texts: int = _setting(
        0,
        "COMPOSER_VISITOR_TEXTS",
        _number(int, 0, 1000),
        "texts of one visitor that are written at the same time (0: no limit)",
    )
    max_upload_mb: int = _setting(
        1, "COMPOSER_MAX_UPLOAD_MB", _number(int, 1, 1000), "megabytes that a recipe's file may have (1)"
    )
    login: tuple[str, str] | None = _setting(
        None,
        "COMPOSER_LOGIN",
        _login,
        "name:password that visitors log in with; without it everybody may enter",
        secret=True,
    )

    replicas: int = _setting(
        1,
        "COMPOSER_REPLICAS",
        _number(int, 1, 64),
        "engines behind this address, each in a process of its own; more than 1 needs Ray Serve (1)",
    )

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Settings from `env`. Raises ComposerError naming the variable that does not read."""
        return cls._of(env, {})

    @classmethod
    def _of(cls, env: Mapping[str, str], options: Mapping[str, str]) -> Settings:
        """options: texts by the variables whose place they take."""
        values = {}
        for each in fields(cls):
            variable = each.metadata["variable"]
            given = options.get(variable)
            text = env.get(variable, "") if given is None else given
            if given is None and not text.strip():
                continue
            try:
                if not text.strip():
                    raise ValueError("given with a value")
                values[each.name] = each.metadata["read"](text)
            except ValueError as wanted:
                name = variable if given is None else _flag(variable)
                got = "" if each.metadata["secret"] else f"; got {text[:40]!r}"
                raise ComposerError(f"{name} must be {wanted}{got}.") from None
        values.setdefault("host", "0.0.0.0" if "SPACE_ID" in env else cls.host)
        at_home = "SPACE_ID" not in env and values["host"] in ("127.0.0.1", "localhost", "::1")
        values.setdefault("folders", at_home)
        return cls(**values)


VARIABLES: Mapping[str, str] = {each.metadata["variable"]: each.metadata["help"] for each in fields(Settings)}


def parse(argv: Sequence[str], env: Mapping[str, str] = os.environ) -> tuple[Settings, bool]:
    """The settings, and whether to log more.

    Raises ComposerError for a wrong value, and SystemExit at --help and, after a line on stderr, for an
    unknown option.
    """
    parser = Parser(
        prog="app.py",
        description="Serve the page. Each option can be set by the environment variable in brackets too.",
    )
    for variable, help in VARIABLES.items():
        metavar = variable.rpartition("_")[2]
        parser.add_argument(
            _flag(variable), dest=variable, metavar=metavar, help=f"{help} [{variable}]".replace("%", "%%")
        )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="what a fault came from, and what libraries say"
    )
    given = vars(parser.parse_args(argv))
    verbose = given.pop("verbose")
    options = {variable: text for variable, text in given.items() if text is not None}
    return Settings._of(env, options), verbose


def _flag(variable: str) -> str:
    return f"--{variable.removeprefix(PREFIX).lower().replace('_', '-')}"
