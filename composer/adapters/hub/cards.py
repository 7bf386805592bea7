"""An adapter's model card, from the Hub or from its folder."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download

from composer.adapters.files import local_folder
from composer.adapters.hub.errors import HubError, translate_hub_errors
from composer.adapters.hub.fetch import Fetch
from composer.adapters.model_card import CARD, LONGEST, ModelCard, parse_card


def read_card(source: str, revision: str | None = None, fetch: Fetch = Fetch()) -> ModelCard:
    """What the card says; an empty one where there is none, or none that can be read.

    revision: a commit, for a repository on the Hub.
    """
    try:
        folder = local_folder(source)
        file = folder / CARD if folder else _download(source, revision, fetch)
        if file is None or not file.is_file() or file.stat().st_size > LONGEST:
            return ModelCard()
        return parse_card(file.read_text("utf-8", errors="replace"))
    except (HubError, OSError):
        return ModelCard()


def _download(repo: str, revision: str | None, fetch: Fetch) -> Path | None:
    with translate_hub_errors(repo, revision):
        size = hf_hub_download(repo, CARD, revision=revision, cache_dir=fetch.cache, dry_run=True).file_size
        if size is None or size > LONGEST:
            return None
        return Path(hf_hub_download(repo, CARD, revision=revision, cache_dir=fetch.cache))
