"""What is missing in an adapter's folder or repository, and where else in it the adapter may be."""

from __future__ import annotations

import re
from collections.abc import Collection

from composer.core.errors import sanitize

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def missing_files(name: str, found: Collection[str], repo: str | None = None) -> str | None:
    """The sentence about missing files; None if both files of an adapter are there.

    found: the files, as paths from the folder or repo. repo: its id on the Hub, since a folder of a repo has
    to be downloaded before it can be used; None for a local folder.
    """
    if CONFIG not in found:
        return _no_config(name, found, repo)
    if WEIGHTS in found:
        return None
    here = [file for file in found if "/" not in file]
    whole = [file for file in here if re.search(r"\.safetensors$", file) and not re.search(r"-\d+-of-", file)]
    if any(re.search(r"-\d+-of-\d+\.safetensors$|\.safetensors\.index\.json$", file) for file in here):
        return f"The weights of {name} are split over several files: save them as one {WEIGHTS}."
    if len(whole) == 1:
        return (
            f"{name} has no {WEIGHTS}, but {sanitize(whole[0])}: rename that file to {WEIGHTS}{_there(repo)}."
        )
    if any(re.search(r"\.(bin|pt|pth|pkl|ckpt)$", file) for file in here):
        return (
            f"{name} keeps its weights in a pickle file, which could run code and is never opened: "
            "ask its author for safetensors or convert it on a machine you can lose, by loading it with PEFT "
            "and saving it again."
        )
    return f"{name} has no {WEIGHTS}: choose an adapter saved by PEFT with safetensors."


def _no_config(name: str, found: Collection[str], repo: str | None) -> str:
    inner = sorted({file.rpartition("/")[0] for file in found if file.endswith(f"/{CONFIG}")}, key=_natural)
    if inner:
        # Of a training's checkpoints the last is most likely the one that is meant.
        last = inner[-1]
        others = f" (as have {len(inner) - 1} others)" if len(inner) > 1 else ""
        give = f"give its folder {sanitize(last)} instead"
        if repo:
            own = repo.rpartition("/")[2]
            give = (
                f"download it (hf download {repo} --include '{sanitize(last)}/*' --local-dir {own}) "
                f"and give the folder {own}/{sanitize(last)}"
            )
        return f"{name} has no {CONFIG} itself, but its folder {sanitize(last)} has one{others}: {give}."
    if WEIGHTS in found:
        there = _there(repo)
        return f"{name} has no {CONFIG} beside its weights: copy there the one its training wrote{there}."
    if "config.json" in found:
        return f"{name} has no {CONFIG} but a config.json, so it is a whole model: choose an adapter."
    return f"{name} has no {CONFIG}, so it is not a PEFT adapter: choose a folder or repository with one."


def _there(repo: str | None) -> str:
    return ", in a folder of your own" if repo else ""


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
