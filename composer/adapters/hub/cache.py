"""Keeps a cache of adapters within a number of bytes: the least recently used ones leave."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

log = logging.getLogger(__name__)


def added_cache() -> Path:
    """The folder for adapters that visitors bring, apart from the Hub's own cache, which is the owner's."""
    return Path(constants.HF_HOME) / "adapter-composer" / "added"


def prune(cache: Path, limit: float, keep: Collection[str] = ()) -> None:
    """Delete repositories of a cache folder, the least recently read first, until it has `limit` bytes.

    keep: ids of repositories that stay. A folder that does not exist has nothing to delete.
    """
    try:
        found = scan_cache_dir(cache)
    except CacheNotFound:
        return
    size = sum(repo.size_on_disk for repo in found.repos)
    for repo in sorted(found.repos, key=lambda each: (each.last_accessed, each.repo_id)):
        if size <= limit:
            return
        if repo.repo_id in keep:
            continue
        commits = [revision.commit_hash for revision in repo.revisions]
        found.delete_revisions(*commits).execute()
        log.info("%s has left the cache of added adapters", repo.repo_id)
        size -= repo.size_on_disk
