"""The only room that touches the network: adapters and bases from the Hugging Face Hub.

Tokens, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE mean what huggingface_hub says they do.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.utils import validate_repo_id

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
from composer.adapters.hub_errors import HubError, Unreachable, translate_hub_errors
from composer.core.errors import sanitize

__all__ = ["AdapterFiles", "HubError", "TensorInfo", "base_snapshot", "download", "inspect", "valid_repo_id"]

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"\w[\w.-]*(/[\w.-]+)*", re.ASCII)
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


def valid_repo_id(text: object) -> bool:
    """Whether `text` is an "owner/name" that the Hub could have."""
    if not isinstance(text, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", text, re.ASCII):
        return False
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def inspect(
    source: str, revision: str | None = None, name: str | None = None, limit_bytes: float | None = None
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
    cached = _cached(source, revision)
    if cached and COMMIT.fullmatch(revision or ""):
        return _read_cached(cached, name, source, limit_bytes)
    try:
        return _inspect_remote(source, revision, name, limit_bytes)
    except Unreachable:
        if not cached:
            raise
        log.warning("The Hub did not answer, so the cached copy of %s is used.", source)
        return _read_cached(cached, name, source, limit_bytes)


def download(files: AdapterFiles, limit_bytes: float | None = None) -> Path:
    """The folder with the adapter's config and weights; downloads the inspected commit if needed.

    Raises HubError, also when the downloaded file's header is not the inspected one.
    """
    if files.folder is not None:
        return files.folder
    with translate_hub_errors(files.source, files.revision):
        check_size(files.name, files.bytes, weights_limit() if limit_bytes is None else limit_bytes)
        _ask(files.source, files.revision)
        hf_hub_download(files.source, CONFIG, revision=files.revision)
        weights = Path(hf_hub_download(files.source, WEIGHTS, revision=files.revision))
        if weights.stat().st_size != files.bytes or read_header(files.name, weights) != files.header:
            raise HubError(
                f"The weights that arrived for {files.name} are not the ones that were announced: try again."
            )
    return weights.parent


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
            _ask(repo, revision)
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


def _ask(repo: str, revision: str | None) -> set[str]:
    """The names of the repo's files. Raises the Hub's refusal without retrying.

    The client's downloads retry a refused or stalled request for minutes, and resolving a branch has no time
    limit. One plain request first reports every lasting fault at once.
    """
    info = HfApi().model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    return {sibling.rfilename for sibling in info.siblings or ()}


def _inspect_remote(repo: str, revision: str | None, name: str, limit_bytes: float) -> AdapterFiles:
    with translate_hub_errors(repo, revision):
        missing = missing_files(name, _ask(repo, revision), repo)
        if missing:
            raise HubError(missing)
        size = hf_hub_download(repo, CONFIG, revision=revision, dry_run=True).file_size
        if size is None or size > CONFIG_LIMIT:
            raise HubError(f"The {CONFIG} of {name} is too large to be one: choose another adapter.")
        # Downloaded by the name asked for, so that the client notes which commit it was: the note is
        # what makes the adapter available offline later. All else is asked for at that commit.
        config = Path(hf_hub_download(repo, CONFIG, revision=revision))
        commit = config.parent.name
        cached = _cached(repo, commit)
        if cached:
            return _read_cached(cached, name, repo, limit_bytes)
        size = hf_hub_download(repo, WEIGHTS, revision=commit, dry_run=True).file_size
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
    except HfHubHTTPError:
        raise
    except (AttributeError, IndexError, RecursionError, TypeError, ValueError) as fault:
        # The client takes the header's values as they come, whatever their types are.
        raise SafetensorsParsingError(str(fault)) from None
    if not whole:
        raise SafetensorsParsingError("tensors end after the file does")
    return header


def _cached(repo: str, revision: str | None) -> Path | None:
    """The cached folder that holds both files of an adapter; makes no request."""
    paths = [try_to_load_from_cache(repo, file, revision=revision) for file in (CONFIG, WEIGHTS)]
    found = [Path(path) for path in paths if isinstance(path, str)]
    return found[0].parent if len(found) == len(paths) else None


def _read_cached(folder: Path, name: str, repo: str, limit_bytes: float) -> AdapterFiles:
    with translate_hub_errors(repo, folder.name):
        files = read_folder(folder, name, repo, folder.name, limit_bytes)
    log.info("Adapter %s is %s at commit %s (cached)", name, repo, folder.name)
    return files


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
