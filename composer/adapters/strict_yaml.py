"""YAML files checked by pydantic. An error becomes one sentence that names the key and the cure."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError

from composer.core.errors import ComposerError, sanitize


class Strict(BaseModel):
    """A mapping of a YAML file: no unknown key, no value converted from another type, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)
D = TypeVar("D")

SENTENCES = {
    "missing": "is missing: add it",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of names to entries",
    "model_type": "must be a mapping of keys to values",
    "invalid_key": "has a key that is no text: put it in quotes",
}
NUMBERS = ("float_type", "int_type")


def read_yaml(path: Path, kind: str = "catalog") -> object:
    """The document. kind: what messages call the file.

    Raises ComposerError for an unreadable file, broken YAML and a key that is written twice.
    """
    try:
        text = path.read_text("utf-8")
    except OSError:
        raise ComposerError(f"The {kind} {sanitize(path.name)} cannot be read: check its name.") from None
    except UnicodeDecodeError:
        raise ComposerError(f"The {kind} is not valid YAML, it is no UTF-8 YAML text: correct it.") from None
    return _document(text, kind, _UniqueKeys)


def read_stranger_yaml(text: str, kind: str, limit: int) -> object:
    """The document of a text that somebody sent.

    Raises ComposerError as `read_yaml`, for more than `limit` characters, and for an alias: a few of them
    stand for a document of any size.
    """
    if len(text) > limit:
        raise ComposerError(f"The {kind} has more than {limit} characters: make it shorter.")
    return _document(text, kind, _NoAliases)


def _document(text: str, kind: str, loader: type[yaml.SafeLoader]) -> object:
    try:
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError, ValueError) as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        what = getattr(fault, "problem", None) or "it is no UTF-8 YAML text"
        raise ComposerError(f"The {kind} is not valid YAML{where}, {sanitize(what)}: correct it.") from None


def parse(model: type[M], document: object, kind: str = "catalog", **context: object) -> M:
    """The document as a value of the model. context: what the model's validators need besides.

    Raises ComposerError with the first error as a sentence.
    """
    return _checked(model, document, kind, "", context)


def parse_dataclass(cls: type[D], values: object, kind: str, where: str) -> D:
    """The values of a mapping as a dataclass whose annotations are the schema. where: the place in the file.

    Raises ComposerError with the first error as a sentence.
    """
    model = _model_of(cls)  # type: ignore[arg-type]  # a class is hashable
    checked = _checked(model, values, kind, where, {})
    return cls(**{name: getattr(checked, name) for name in model.model_fields})


@cache
def _model_of(cls: type) -> type[BaseModel]:
    hints = typing.get_type_hints(cls)
    fields: dict[str, Any] = {each.name: (hints[each.name], ...) for each in dataclasses.fields(cls)}
    return create_model(cls.__name__, __base__=Strict, **fields)


def _checked(model: type[M], values: object, kind: str, where: str, context: Mapping[str, object]) -> M:
    try:
        return model.model_validate(values, context=dict(context))
    except UnicodeEncodeError:  # of a lone surrogate, which YAML and JSON can escape
        raise ComposerError(f"The {kind} has broken characters: type them again as plain text.") from None
    except ValidationError as error:
        raise ComposerError(_sentence(model, error.errors(include_url=False)[0], kind, where)) from None


def rule(text: str, key: str = "") -> PydanticCustomError:
    """The error of a rule of our own. text: the cure. key: below the place where it is raised."""
    return PydanticCustomError("rule", "{text}", {"text": text, "key": key})


def text_length(limit: int, blank: bool = False) -> AfterValidator:
    """Checks that a text has at most `limit` characters. blank: whether it may be empty."""

    def check(value: str) -> str:
        if len(value) > limit or not (blank or value.strip()):
            raise rule(f"must be a text of 1 to {limit} characters")
        return value

    return AfterValidator(check)


def as_read(value: object, number: bool = False) -> str:
    """A hint for a value that YAML read as another type than was meant: a text, or a number."""
    if number:
        text = isinstance(value, str)
        return f", but YAML reads {sanitize(value, 40)} as a text: write it without quotes" if text else ""
    if value is None:
        return ", but nothing is there: YAML leaves out what follows a #, and null and ~, so put it in quotes"
    if isinstance(value, (bool, int, float, date)):
        return (
            f", but YAML reads it as {type(value).__name__} {sanitize(value, 40)}, as it does with no, on, "
            "1, 1.0 and dates: put it in quotes"
        )
    return ""


def _sentence(model: type[BaseModel], error: ErrorDetails, kind: str, where: str) -> str:
    context: Mapping[str, Any] = error.get("ctx", {})
    place = ".".join(filter(None, (where, *_parts(error["loc"]), context.get("key", ""))))
    cure = _cure(model, error, context, kind)
    return f"{kind.capitalize()}: {sanitize(place, 120) or f'The {kind}'} {cure}."


def _parts(loc: Sequence[int | str]) -> list[str]:
    """The place as people count: the first entry of a list is 1."""
    names = [part for part in loc if part != "[key]"]
    is_key = len(names) < len(loc)
    last = len(names) - 1
    return [
        str(part + 1) if isinstance(part, int) and not (is_key and place == last) else str(part)
        for place, part in enumerate(names)
    ]


def _cure(model: type[BaseModel], error: ErrorDetails, context: Mapping[str, Any], kind: str) -> str:
    name, value = error["type"], error["input"]
    if name == "rule":
        return str(context["text"])
    if name == "value_error":
        return f"is refused; {str(context['error']).rstrip('.')}"
    if name == "string_type" or (name == "literal_error" and not isinstance(value, str)):
        return f"must be a text{as_read(value)}"
    if name == "literal_error":
        choices = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"is {sanitize(value)!r}: choose one of {choices}"
    if name in NUMBERS:
        return f"must be a number{as_read(value, number=True)}"
    if name == "extra_forbidden":
        known = ", ".join(sorted(_keys_at(model, error["loc"][:-1])))
        return f"is no key of the {kind}: remove it or choose one of {known}"
    return SENTENCES.get(name) or f"is refused; {sanitize(error['msg'])}"


def _keys_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys of the mapping at a place of the model."""
    kind: Any = model
    for part in loc:
        kind = _plain(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        else:
            kind = typing.get_args(kind)[-1]
    kind = _plain(kind)
    return list(kind.model_fields)


def _plain(kind: Any) -> Any:
    """A type without Annotated and None."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _plain(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return _plain(next(each for each in typing.get_args(kind) if each is not type(None)))
    return kind


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader with an error for a key that is written twice: plain YAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key.value, str)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{sanitize(key.value)} is written twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _NoAliases(_UniqueKeys):
    """Without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "it has an alias", mark)
        return super().compose_node(parent, index)
