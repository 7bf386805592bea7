"""Turns whatever the Hub client raises into one sentence that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.utils import httpx, parse_ratelimit_headers

from composer.core.errors import ComposerError, sanitize


class HubError(ComposerError):
    """A fault of the Hub or of something on it."""


class Unreachable(HubError):
    """The Hub did not answer, or not now; a cached copy may stand in."""


# Answers that are not what a Hub would say (a login page, an empty record) surface as these.
_GARBLED = (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError)


@contextmanager
def translate_hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Raises every fault inside as a HubError; the original, which may name paths, is dropped."""
    try:
        yield
    except HubError:
        raise
    except ComposerError as fault:
        raise HubError(str(fault)) from None
    except (OSError, httpx.HTTPError, SafetensorsParsingError, *_GARBLED) as fault:
        raise _sentence(_root(fault), repo, revision) from None


def _root(fault: BaseException) -> BaseException:
    """The client wraps what went wrong in "not found in the cache"; the cause says more."""
    while isinstance(fault, LocalEntryNotFoundError) and fault.__cause__ is not None:
        fault = fault.__cause__
    return fault


def _sentence(fault: BaseException, repo: str, revision: str | None) -> HubError:  # noqa: C901 -- a case a fault
    # The order matters: GatedRepoError is a RepositoryNotFoundError, and both are OSErrors.
    match fault:
        case GatedRepoError():
            return HubError(
                f"{repo} is gated: accept its terms on its Hub page, then set HF_TOKEN to your token."
            )
        case DisabledRepoError():
            return HubError(f"{repo} has been disabled on the Hub: choose another one.")
        case RepositoryNotFoundError():
            return HubError(
                f"The Hub has no repository {repo}, or it is private: check the spelling, "
                "or set HF_TOKEN to a token that may read it."
            )
        case RevisionNotFoundError():
            return HubError(f"{repo} has no revision '{sanitize(revision)}': use a commit from its Hub page.")
        case RemoteEntryNotFoundError():
            return HubError(f"{repo} lacks a file that an adapter or base needs: choose another one.")
        case OfflineModeIsEnabled():
            return Unreachable(
                f"{repo} is not in the cache and HF_HUB_OFFLINE is set: unset it, or use a local folder."
            )
        case HfHubHTTPError():
            return _status(fault, repo)
        case httpx.TimeoutException():
            return Unreachable(f"The Hub took too long to answer about {repo}: try again in a minute.")
        case httpx.ProxyError():
            return Unreachable("The proxy refused the connection to the Hub: check HTTPS_PROXY.")
        case httpx.HTTPError():
            return Unreachable(
                f"The Hub cannot be reached, so {repo} could not be read: check the network connection."
            )
        case SafetensorsParsingError():
            return HubError(
                f"The weights file of {repo} is damaged or not safetensors: ask its author for a good one."
            )
        case FileMetadataError() | LocalEntryNotFoundError():
            return Unreachable(
                f"What answered about {repo} is not a Hub: check HF_ENDPOINT and the proxy settings."
            )
        case OSError(errno=int()):
            return HubError(
                f"{repo} could not be stored in the cache: free some disk space, or set HF_HOME to a "
                "folder that can be written to."
            )
        case OSError():
            return HubError(f"A file of {repo} arrived damaged or cut short: try again.")
        case _:
            return Unreachable(
                f"The answer about {repo} could not be understood: check HF_ENDPOINT and try again."
            )


def _status(fault: HfHubHTTPError, repo: str) -> HubError:
    status = fault.response.status_code
    if status == 429:
        when = _retry_after(fault.response.headers)
        return Unreachable(
            f"The Hub's rate limit is reached: try again {when}, or set HF_TOKEN to have a higher limit."
        )
    if status in (401, 403):
        return HubError(f"The Hub refused access to {repo}: check that HF_TOKEN is valid and may read it.")
    if status >= 500 or status == 408:
        return Unreachable(f"The Hub has a fault of its own (status {status}): try again in a few minutes.")
    return HubError(f"The Hub refused the request for {repo} (status {status}): check the id and revision.")


def _retry_after(headers: httpx.Headers) -> str:
    limit = parse_ratelimit_headers(headers)
    given = headers.get("Retry-After", "")
    if limit is not None:
        seconds = limit.reset_in_seconds
    elif re.fullmatch(r"\d{1,6}", given):
        seconds = int(given)
    else:
        return "in five minutes"
    return f"in {seconds} second{'' if seconds == 1 else 's'}"
