"""The only room that touches the network: adapters and bases from the Hugging Face Hub, wheels from an index.

Tokens, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE mean what huggingface_hub says they do.
"""

from composer.adapters.files import AdapterFiles, TensorInfo
from composer.adapters.hub.adapters import download, inspect
from composer.adapters.hub.bases import base_snapshot
from composer.adapters.hub.cache import added_cache, prune
from composer.adapters.hub.cards import read_card
from composer.adapters.hub.errors import HubError
from composer.adapters.hub.fetch import Fetch
from composer.adapters.hub.hosts import stay_on_the_hub
from composer.adapters.hub.ids import COMMIT, parse_address, valid_repo_id
from composer.adapters.hub.search import Found, search
from composer.adapters.hub.wheels import download_wheels, wheel_path

__all__ = [
    "COMMIT",
    "AdapterFiles",
    "Fetch",
    "Found",
    "HubError",
    "TensorInfo",
    "added_cache",
    "base_snapshot",
    "download",
    "download_wheels",
    "inspect",
    "parse_address",
    "prune",
    "read_card",
    "search",
    "stay_on_the_hub",
    "valid_repo_id",
    "wheel_path",
]
