"""Base models on the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from composer.adapters.hub.errors import HubError, Unreachable, translate_hub_errors
from composer.adapters.hub.fetch import list_files
from composer.adapters.hub.ids import COMMIT, valid_repo_id
from composer.core.errors import sanitize

log = logging.getLogger(__name__)

# No weights but safetensors and no code: a base is never unpickled and never runs its own Python.
# "model*" leaves out second copies such as consolidated.safetensors.
BASE_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def base_snapshot(repo: str, revision: str | None, cached_only: bool) -> Path | None:
    """The folder of a base model: safetensors, configs and tokenizer, never pickle or code.

    cached_only: look in the Hub cache without any request and return None if it is not all there.
    Otherwise download what is missing; raises HubError.
    """
    if not valid_repo_id(repo):
        raise HubError(f"'{sanitize(repo)}' is not a repository id: write it as owner/name.")
    cached = _cached_base(repo, revision)
    if cached_only or (cached and COMMIT.fullmatch(revision or "")):
        return cached
    try:
        with translate_hub_errors(repo, revision):
            list_files(repo, revision)
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(BASE_FILES)))
    except Unreachable:
        if not cached:
            raise
        log.warning("The Hub did not answer, so the cached copy of %s is used.", repo)
        return cached
    if not _whole_base(folder):
        raise HubError(f"{repo} has no complete safetensors weights with a tokenizer: choose another base.")
    log.info("Base %s at commit %s", repo, folder.name)
    return folder


def _cached_base(repo: str, revision: str | None) -> Path | None:
    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=list(BASE_FILES), local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder) if _whole_base(Path(folder)) else None


def _whole_base(folder: Path) -> bool:
    """Whether a snapshot folder is complete; an interrupted download leaves one that cannot be loaded."""
    if not (folder / "config.json").is_file():
        return False
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((folder / str(shard)).is_file() for shard in shards)
