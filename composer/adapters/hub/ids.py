"""Ids of repositories and revisions on the Hub, and the addresses that people copy from a browser."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"\w[\w.-]*(/[\w.-]+)*", re.ASCII)
HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
# What stands between a repository and a revision in an address.
VIEWS = ("tree", "blob", "resolve", "commit", "raw")


def valid_repo_id(text: object) -> bool:
    """Whether `text` is an "owner/name" that the Hub could have."""
    if not isinstance(text, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", text, re.ASCII):
        return False
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def parse_address(text: str) -> tuple[str, str | None] | None:
    """The repository and the revision that a Hub address names; None for a text that is none.

    "https://huggingface.co/owner/name/tree/main" -> ("owner/name", "main"). The host may be that of
    HF_ENDPOINT, and "https://" may be missing.
    """
    text = text.strip()
    whole = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(whole)
        host = (parts.netloc or "").lower()
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or host not in (
        *HOSTS,
        urlsplit(constants.ENDPOINT).netloc.lower(),
    ):
        return None
    names = [unquote(each) for each in parts.path.split("/") if each]
    if names[:1] == ["models"]:
        del names[0]
    repo = "/".join(names[:2])
    if not valid_repo_id(repo):
        return None
    revision = names[3] if len(names) > 3 and names[2] in VIEWS else None
    return repo, revision if revision and REVISION.fullmatch(revision) else None
