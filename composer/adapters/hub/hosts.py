"""Requests go to the Hub and to where it keeps its files, and nowhere else."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils import httpx
from huggingface_hub.utils._http import default_client_factory

from composer.adapters.hub.errors import Unreachable
from composer.core.errors import quote_name

log = logging.getLogger(__name__)

# The Hub answers a request for a large file with an address on one of these.
FILES = ("huggingface.co", "hf.co")


def stay_on_the_hub() -> None:
    """Have this process' Hub client refuse to be led to other hosts, such as a network's login page.

    HF_ENDPOINT's host, with those below it, and the Hub's own are allowed. For a server: it follows what
    strangers name.
    """

    def client() -> httpx.Client:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [_check, *made.event_hooks["request"]]}
        return made

    set_client_factory(client)


def allowed(url: str) -> bool:
    """Whether a request to this address may be made."""
    asked, endpoint = urlsplit(url), urlsplit(constants.ENDPOINT)
    if asked.netloc == endpoint.netloc:
        return True
    host, own = asked.hostname or "", endpoint.hostname or ""
    return asked.scheme == "https" and any(
        host == name or host.endswith(f".{name}") for name in (own, *FILES) if name
    )


def _check(request: httpx.Request) -> None:
    if not allowed(str(request.url)):
        log.warning("the Hub's answer leads to %s, which is not asked", quote_name(request.url.host))
        raise Unreachable(
            "The Hub's answer leads to another host: check the network, which may want a login, the proxy "
            "settings and HF_ENDPOINT."
        )
