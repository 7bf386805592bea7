"""The config of a base on the Hugging Face Hub, a few kilobytes, without its weights."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from composer.adapters.hub.errors import HubError, Unreachable, translate_hub_errors
from composer.adapters.hub.fetch import list_files
from composer.adapters.hub.ids import COMMIT, valid_repo_id
from composer.core.errors import sanitize

BASE_CONFIG = "config.json"
# Real ones have a few kilobytes.
LARGEST = 1_000_000


def base_config(repo: str, revision: str | None, cached_only: bool = False) -> Path | None:
    """The folder with the config.json of a base, from the Hub's cache or the Hub.

    cached_only: make no request, and return None for what is not in the cache. A commit that is there costs
    no request. Raises HubError.
    """
    if not valid_repo_id(repo):
        raise HubError(f"'{sanitize(repo)}' is not a repository id: write it as owner/name.")
    found = try_to_load_from_cache(repo, BASE_CONFIG, revision=revision)
    cached = Path(found).parent if isinstance(found, str) else None
    if cached_only or (cached and COMMIT.fullmatch(revision or "")):
        return cached
    try:
        with translate_hub_errors(repo, revision):
            list_files(repo, revision)
            size = hf_hub_download(repo, BASE_CONFIG, revision=revision, dry_run=True).file_size
            if size is None or size > LARGEST:
                raise HubError(f"The {BASE_CONFIG} of {repo} is too large to be one: choose another base.")
            return Path(hf_hub_download(repo, BASE_CONFIG, revision=revision)).parent
    except Unreachable:
        if not cached:
            raise
        return cached
