"""One sentence for any exception: what is wrong, what to do, and no more than its hearer may know."""

from __future__ import annotations

import errno

import pytest
import torch
from safetensors import SafetensorError

from composer.core.errors import ComposerError
from composer.core.fault_messages import sentence

SECRET = "/srv/private/token.txt"
FORESEEN = [
    (OSError(errno.ENOSPC, "No space left on device", SECRET), "disk is full"),
    (SafetensorError(f"I/O error: No space left on device (os error 28) at path {SECRET}"), "disk is full"),
    (OSError(errno.EDQUOT, "Quota exceeded", SECRET), "quota"),
    (OSError(errno.EROFS, "Read-only file system", SECRET), "read-only"),
    (PermissionError(errno.EACCES, "Permission denied", SECRET), "permission"),
    (FileNotFoundError(errno.ENOENT, "No such file", SECRET), "not there"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", SECRET), "a folder is needed"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", SECRET), "a file is needed"),
    (OSError(errno.EMFILE, "Too many open files", SECRET), "ulimit"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
    (MemoryError(), "memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory"),
    (RuntimeError("can't start new thread"), "threads"),
    (ModuleNotFoundError("No module named 'gradio.blocks'", name="gradio.blocks"), "package gradio"),
]
UNFORESEEN = [
    RuntimeError(f"shape [2, 3] of {SECRET}\nis invalid"),
    KeyError(SECRET),
    ValueError(SECRET),
    OSError(f"no errno at {SECRET}"),
    AssertionError(),
    RecursionError(SECRET),
    UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
]


@pytest.mark.parametrize(("fault", "words"), FORESEEN, ids=lambda each: str(each)[:30])
def test_a_foreseen_fault_says_what_to_do_and_names_no_path(fault, words):
    told = sentence(fault, "Look there.")
    assert words in told.lower() and SECRET not in told
    assert "\n" not in told and told.endswith(".") and "Look there" not in told


@pytest.mark.parametrize("fault", UNFORESEEN, ids=lambda each: type(each).__name__)
def test_an_unforeseen_error_shows_its_type_and_where_to_look(fault):
    told = sentence(fault, "Look there.", paths=True)
    assert type(fault).__name__ in told and told.endswith("Look there.")
    assert SECRET not in told and "\n" not in told


def test_only_the_owner_reads_the_path():
    fault = OSError(errno.ENOSPC, "No space left on device", "a\x1b[31m\nb")
    assert "a?[31m?b" in sentence(fault, "", paths=True)
    assert "[31m" not in sentence(fault, "")


def test_a_sentence_that_is_there_is_kept():
    assert sentence(ComposerError("Choose\n  another one."), "Look there.") == "Choose another one."
