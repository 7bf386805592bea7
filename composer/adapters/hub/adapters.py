"""Adapters on the Hugging Face Hub: what one says of itself, and its weights."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, SafetensorsParsingError

from composer.adapters.files import (
    CONFIG,
    CONFIG_LIMIT,
    WEIGHTS,
    AdapterFiles,
    TensorInfo,
    check_size,
    local_folder,
    read_config,
    read_folder,
    weights_limit,
)
from composer.adapters.fit.missing import missing_files
from composer.adapters.header import read_header
from composer.adapters.hub.cache import check_unchanged
from composer.adapters.hub.errors import HubError, Unreachable, translate_hub_errors
from composer.adapters.hub.fetch import Fetch, list_files
from composer.adapters.hub.ids import COMMIT, REVISION, valid_repo_id
from composer.core.errors import sanitize

log = logging.getLogger(__name__)


def inspect(
    source: str,
    revision: str | None = None,
    name: str | None = None,
    limit_bytes: float | None = None,
    fetch: Fetch = Fetch(),
) -> AdapterFiles:
    """An adapter's config and safetensors header. Downloads no weights.

    source: a folder, or a repo id, which is resolved to a commit. limit_bytes: of the weights; None: the
    result of weights_limit. A commit (40 hex digits in `revision`) that is in the cache costs no request.
    Raises HubError for faults of a repo and ComposerError for faults of a folder.
    """
    limit_bytes = weights_limit() if limit_bytes is None else limit_bytes
    if folder := local_folder(source):
        name = name or sanitize(Path(os.path.abspath(folder)).name)
        return read_folder(folder, name, source, None, limit_bytes)
    if not valid_repo_id(source):
        what = sanitize(source if len(Path(source).parts) < 3 else Path(source).name)
        raise HubError(f"'{what}' is neither an adapter folder nor a repository id: write it as owner/name.")
    if revision is not None and not (REVISION.fullmatch(revision) and ".." not in revision):
        raise HubError(f"'{sanitize(revision)}' is not a revision: use a commit's 40 hex digits or a branch.")
    name = name or source.split("/")[1]
    cached = _cached(source, revision, fetch)
    if cached and COMMIT.fullmatch(revision or ""):
        return _read_cached(cached, name, source, limit_bytes)
    try:
        return _inspect_remote(source, revision, name, limit_bytes, fetch)
    except Unreachable:
        if not cached:
            raise
        log.warning("The Hub did not answer, so the cached copy of %s is used.", source)
        return _read_cached(cached, name, source, limit_bytes)


def download(files: AdapterFiles, limit_bytes: float | None = None, fetch: Fetch = Fetch()) -> Path:
    """The folder with the adapter's config and weights; downloads the inspected commit if needed.

    Raises HubError, also when the bytes are not those that were inspected or that the Hub named.
    """
    if files.folder is not None:
        with translate_hub_errors(files.source, files.revision):
            check_unchanged(files.name, files.folder / WEIGHTS)
        return files.folder
    with translate_hub_errors(files.source, files.revision):
        check_size(files.name, files.bytes, weights_limit() if limit_bytes is None else limit_bytes)
        list_files(files.source, files.revision)
        hf_hub_download(files.source, CONFIG, revision=files.revision, cache_dir=fetch.cache)
        weights = Path(
            hf_hub_download(
                files.source,
                WEIGHTS,
                revision=files.revision,
                cache_dir=fetch.cache,
                tqdm_class=fetch.progress_bar,
            )
        )
        if weights.stat().st_size != files.bytes or read_header(files.name, weights) != files.header:
            raise HubError(
                f"The weights that arrived for {files.name} are not the ones that were announced: try again."
            )
        check_unchanged(files.name, weights)
    return weights.parent


def _inspect_remote(
    repo: str, revision: str | None, name: str, limit_bytes: float, fetch: Fetch
) -> AdapterFiles:
    with translate_hub_errors(repo, revision):
        missing = missing_files(name, list_files(repo, revision), repo)
        if missing:
            raise HubError(missing)
        size = hf_hub_download(repo, CONFIG, revision=revision, cache_dir=fetch.cache, dry_run=True).file_size
        if size is None or size > CONFIG_LIMIT:
            raise HubError(f"The {CONFIG} of {name} is too large to be one: choose another adapter.")
        # Downloaded by the name asked for, so that the client notes which commit it was: the note is
        # what makes the adapter available offline later. All else is asked for at that commit.
        config = Path(hf_hub_download(repo, CONFIG, revision=revision, cache_dir=fetch.cache))
        commit = config.parent.name
        cached = _cached(repo, commit, fetch)
        if cached:
            return _read_cached(cached, name, repo, limit_bytes)
        size = hf_hub_download(repo, WEIGHTS, revision=commit, cache_dir=fetch.cache, dry_run=True).file_size
        size = check_size(name, size, limit_bytes)
        header = _remote_header(repo, commit, size)
        log.info("Adapter %s is %s at commit %s", name, repo, commit)
        return AdapterFiles(name, repo, commit, read_config(name, config), header, size, None)


def _remote_header(repo: str, commit: str, size: int) -> dict[str, TensorInfo]:
    """The safetensors header by range requests, a few kilobytes instead of the weights."""
    try:
        head = HfApi().parse_safetensors_file_metadata(
            repo, WEIGHTS, revision=commit, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        )
        # A header cut short by the end of the file reads as an empty one.
        whole = bool(head.tensors) and all(tensor.data_offsets[1] <= size for tensor in head.tensors.values())
        header = {key: TensorInfo(str(t.dtype), tuple(map(int, t.shape))) for key, t in head.tensors.items()}
    except (HfHubHTTPError, HubError):
        raise
    except (AttributeError, IndexError, RecursionError, TypeError, ValueError) as fault:
        # The client takes the header's values as they come, whatever their types are.
        raise SafetensorsParsingError(str(fault)) from None
    if not whole:
        raise SafetensorsParsingError("tensors end after the file does")
    return header


def _cached(repo: str, revision: str | None, fetch: Fetch) -> Path | None:
    """The cached folder that holds both files of an adapter; makes no request."""
    for cache in dict.fromkeys((None, fetch.cache)):
        paths = [try_to_load_from_cache(repo, file, cache, revision=revision) for file in (CONFIG, WEIGHTS)]
        found = [Path(path) for path in paths if isinstance(path, str)]
        if len(found) == len(paths):
            return found[0].parent
    return None


def _read_cached(folder: Path, name: str, repo: str, limit_bytes: float) -> AdapterFiles:
    with translate_hub_errors(repo, folder.name):
        files = read_folder(folder, name, repo, folder.name, limit_bytes)
    log.info("Adapter %s is %s at commit %s (cached)", name, repo, folder.name)
    return files
