"""Any exception as one sentence, for every door: shell, start of the page, page, endpoints."""

from __future__ import annotations

import errno
import re

from composer.core.errors import ComposerError

# By errno: what is wrong, and what to do.
_SYSTEM = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EFBIG: ("the file is larger than the system allows", "use another disk"),
    errno.EROFS: ("the disk is read-only", "choose a folder that can be written to"),
    errno.EACCES: ("permission was denied", "check who may read and write it"),
    errno.EPERM: ("permission was denied", "check who may read and write it"),
    errno.ENOENT: ("a file or folder is not there", "check the path"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "choose another path"),
    errno.EISDIR: ("a folder stands where a file is needed", "choose another path"),
    errno.EEXIST: ("a file stands where a folder is needed", "choose another path"),
    errno.ENAMETOOLONG: ("a path is too long", "choose a shorter one"),
    errno.ELOOP: ("a link leads back to itself", "choose another path"),
    errno.EIO: ("the disk could not be read or written", "check the disk"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open", "close other programs"),
    errno.ENOMEM: ("the memory is used up", "close other programs, or use a smaller base"),
}
_NO_MEMORY = re.compile(r"out of memory|not enough memory|can.?t allocate memory|bad_alloc", re.IGNORECASE)
# How Rust libraries (safetensors, tokenizers) report what the system refused.
_RUST = re.compile(r"\(os error (\d+)\)")


def sentence(fault: BaseException, details: str, paths: bool = False) -> str:
    """What went wrong and what to do about it, in one line.

    details: where more is to be found, for a fault that nobody foresaw. paths: whether to name the file at
    fault; only to whoever owns it.
    """
    if isinstance(fault, ComposerError):
        return " ".join(str(fault).split())
    if out_of_memory(fault):
        what, cure = _SYSTEM[errno.ENOMEM]
    elif (number := system_error(fault)) in _SYSTEM:
        what, cure = _SYSTEM[number]
    elif isinstance(fault, ModuleNotFoundError) and fault.name:
        package = fault.name.partition(".")[0]
        return f"The package {package} is not installed: pip install -r requirements.txt."
    elif isinstance(fault, RuntimeError) and "start new thread" in str(fault):
        what, cure = "the system allows no more threads", "close other programs, or raise its limit"
    else:
        return f"Something went wrong that was not foreseen ({type(fault).__name__}). {details}"
    name = getattr(fault, "filename", None) if paths else None
    where = f" ({_quoted(name)})" if name else ""
    return f"{what[0].upper()}{what[1:]}{where}: {cure} and try again."


def system_error(fault: BaseException) -> int | None:
    """The errno of what the system refused, if it is that; also where a library wrapped it."""
    if isinstance(fault, OSError) and fault.errno is not None:
        return fault.errno
    found = _RUST.search(str(fault))
    return int(found[1]) if found else None


def out_of_memory(fault: BaseException) -> bool:
    """Whether memory, the processor's or a GPU's, was not enough."""
    # torch.OutOfMemoryError by its text: this file must not take seconds to import.
    wordy = isinstance(fault, RuntimeError) and _NO_MEMORY.search(str(fault)) is not None
    return isinstance(fault, MemoryError) or wordy or system_error(fault) == errno.ENOMEM


def _quoted(path: object) -> str:
    """A path as one printable line; its end says more than its beginning."""
    text = "".join(char if char.isprintable() else "?" for char in str(path))
    return text if len(text) <= 200 else f"...{text[-197:]}"
