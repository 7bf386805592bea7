"""Finds adapters of a base on the Hub."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi

from composer.adapters.hub.errors import Unreachable, translate_hub_errors
from composer.adapters.hub.fetch import list_files
from composer.adapters.hub.ids import valid_repo_id

# Seconds for an answer. The client itself would wait and retry for minutes.
PATIENCE = 20
MOST = 20
LONGEST_WORDS = 100


@dataclass(frozen=True)
class Found:
    """An adapter on the Hub, as its author describes it. Its texts are a stranger's."""

    id: str
    downloads: int = 0
    likes: int = 0
    license: str = ""
    datasets: tuple[str, ...] = ()
    gated: bool = False


def search(base: str, words: str = "") -> list[Found]:
    """Adapters whose authors say that they are for this base, most downloaded first; at most MOST.

    words: parts of their names; empty for all. Raises HubError.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="searching")
    try:
        return pool.submit(_search, base, words.strip()[:LONGEST_WORDS]).result(PATIENCE)
    except Late:
        raise Unreachable("The Hub took too long to answer the search: try again in a minute.") from None
    finally:
        pool.shutdown(wait=False)


def _search(base: str, words: str) -> list[Found]:
    with translate_hub_errors(base, None):
        # Asked first, since a search is retried for minutes where the Hub cannot be reached.
        list_files(base, None)
        models = HfApi().list_models(
            filter=[f"base_model:adapter:{base}", "peft", "safetensors"],
            search=words or None,
            sort="downloads",
            limit=MOST,
            expand=["downloads", "likes", "gated", "tags"],
        )
        return [_found(each) for each in models if valid_repo_id(each.id)]


def _found(model: Any) -> Found:
    tags = [tag for tag in model.tags or () if isinstance(tag, str)]
    return Found(
        model.id,
        _number(model.downloads),
        _number(model.likes),
        next(iter(_tagged(tags, "license:")), ""),
        _tagged(tags, "dataset:"),
        bool(model.gated),
    )


def _tagged(tags: list[str], prefix: str) -> tuple[str, ...]:
    return tuple(tag.removeprefix(prefix)[:100] for tag in tags if tag.startswith(prefix))[:5]


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
