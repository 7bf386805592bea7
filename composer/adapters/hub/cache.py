"""What is in a cache of adapters: within a number of bytes, and the bytes that the Hub had."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from composer.adapters.hub.errors import HubError
from composer.core.errors import quote_name

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


def check_unchanged(name: str, file: Path) -> None:
    """Raise HubError for a cached file whose bytes are not those that the Hub named, and delete it.

    The cache calls a large file by its SHA-256. Any other file is taken as it is.
    """
    stored = file.resolve()
    if not re.fullmatch("[0-9a-f]{64}", stored.name):
        return
    with stored.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() == stored.name:
            return
    log.warning("a cached file of %s was changed or is damaged; it is deleted", name)
    file.unlink()
    stored.unlink(missing_ok=True)
    raise HubError(f"The stored weights of {quote_name(name)} were damaged and have been deleted: try again.")
