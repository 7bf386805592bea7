"""What is loaded is in memory and stays what it was, whatever happens to the file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from composer.adapters.fit.tensors import PLAIN
from composer.adapters.header import parse_header
from composer.adapters.hub import inspect
from composer.adapters.reading import Reader
from composer.adapters.weights import load_adapter
from composer.core.catalog_types import AdapterSpec, FitReport
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from tests.tools import tiny
from tests.tools.adapters import linear_sites, peft_adapter, tiny_llama
from tests.tools.oracle import WEIGHTS, by_peft, by_us, reader, same

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
FLOATS += [torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
OTHERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64]
OTHERS += [torch.uint16, torch.uint32, torch.uint64]


@pytest.fixture(scope="module")
def llama():
    return reader(tiny_llama())


@pytest.fixture
def folder(tmp_path):
    return peft_adapter(tmp_path / "joy", LoraConfig(r=4, target_modules="all-linear"))


def retyped(folder: Path, dtype: torch.dtype) -> Path:
    tensors = {key: tensor.to(dtype) for key, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_floating_type_loads_as_by_peft(dtype, llama, folder):
    report, ours = by_us(llama, retyped(folder, dtype))
    assert report.ok, report
    reference, unused = by_peft(tiny_llama(), folder)
    assert not unused and same(ours, reference)


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_every_other_type_is_refused_by_its_name(dtype, llama, folder):
    reasons = by_us(llama, retyped(folder, dtype))[0].reasons
    assert (
        len(reasons) == 1 and "not floating-point" in reasons[0] and "save it in bf16 or fp32" in reasons[0]
    )
    # The cure.
    assert by_us(llama, retyped(folder, torch.bfloat16))[0].ok


@pytest.mark.parametrize("kind", ["F4", "F8_E8M0", "NF4", "F128"])
def test_types_of_the_future_are_refused_from_the_header(kind, llama, folder):
    """A header of another type over as many bytes as it says."""
    data = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    bits = {"F4": 4, "F8_E8M0": 8}.get(kind, 16)
    for value in header.values():
        if "dtype" in value:
            first, last = value["data_offsets"]
            value["dtype"], value["shape"] = kind, [(last - first) * 8 // bits // 4, 4]
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    reasons = by_us(llama, folder)[0].reasons
    assert len(reasons) == 1 and kind.split("_")[0] in reasons[0] and "not floating-point" in reasons[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_that_happens_to_the_file_changes_what_was_loaded(dtype, folder):
    """Also where no cast makes a copy: the file's type and device are the base's."""
    retyped(folder, dtype)
    files = inspect(str(folder), name="joy")
    reading = Reader(linear_sites(tiny_llama()), PLAIN, torch.device("cpu"), dtype)
    report, adapter = reading.read(AdapterSpec("joy", str(folder)))
    assert report.ok
    before = {path: (own.A.clone(), own.B.clone()) for path, own in adapter.items()}
    path = folder / WEIGHTS
    data = path.read_bytes()
    with path.open("r+b") as file:  # as cp does: the same file, other bytes
        file.write(data[: len(data) // 2] + b"\x55" * (len(data) - len(data) // 2))
    assert all(torch.equal(own.A, before[key][0]) for key, own in adapter.items())
    with path.open("r+b") as file:
        file.truncate(100)
    assert all(torch.equal(own.B, before[key][1]) for key, own in adapter.items())
    path.unlink()
    assert all(torch.equal(own.A, before[key][0]) for key, own in adapter.items())
    for own in adapter.values():
        assert own.A.is_contiguous() and own.B.is_contiguous() and own.A.dtype == own.B.dtype == dtype
    # No process's map of memory names the file.
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(files.folder) not in maps.read_text()


def test_a_server_lives_on_when_a_loaded_file_is_cut_short(tmp_path):
    first = tiny.adapter(tmp_path / "first", "llama", 1, r=4)
    other = tiny.adapter(tmp_path / "other", "llama", 2, r=4)
    engine = tiny.engine("llama", {"first": first})
    maps = Path("/proc/self/maps")
    # Or what follows would end this process instead of a test.
    assert not maps.exists() or str(first) not in maps.read_text()

    def logits():
        return engine.next_token_logits("Hi", Composition({"first": 1}))

    before = logits()
    os.truncate(first / WEIGHTS, 10)
    assert (logits() == before).all()
    assert engine.add_adapter(str(other), name="other").ok
    assert abs(logits() - before).max() < 1e-5
    assert "damaged or cut short" in engine.add_adapter(str(first), name="again").reasons[0]


def checked(folder: Path):
    files = inspect(str(folder), name="joy")
    ranks = {path: 4 for path in linear_sites(tiny_llama())}
    return files, FitReport("joy", str(folder), True, ranks=ranks)


def load(folder: Path, files, report, dtype=torch.float32):
    return load_adapter(folder, files, report, device=torch.device("cpu"), dtype=dtype)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data.replace(b'"F32"', b'"I32"', 1),
        lambda data: data.replace(b"q_proj", b"k_proj", 1),
        lambda data: data[:8] + b"[" * (len(data) - 8),
        lambda data: b"\xff" * len(data),
    ],
    ids=["cut", "longer", "header cut", "empty", "type", "name", "nested", "garbage"],
)
def test_a_file_that_changes_between_check_and_loading_is_reported(change, folder):
    files, report = checked(folder)
    path = folder / WEIGHTS
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ComposerError, match="changed after they were checked; load it again"):
        load(folder, files, report)
    path.unlink()
    with pytest.raises(ComposerError, match="cannot be read"):
        load(folder, files, report)


def test_the_cure_of_numbers_that_are_too_large_is_another_dtype(folder):
    tensors = load_file(folder / WEIGHTS)
    key = next(iter(tensors))
    tensors[key][0, 0] = 1e6
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ComposerError, match="too large for this base's float16; use the base in another"):
        load(folder, *checked(folder), dtype=torch.float16)
    assert load(folder, *checked(folder), dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_reported_in_every_dtype(number, dtype, folder):
    tensors = load_file(folder / WEIGHTS)
    key = next(iter(tensors))
    tensors[key][0, 0] = number
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / WEIGHTS)
    with pytest.raises(ComposerError, match="NaN or infinite"):
        load(folder, *checked(folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = peft_adapter(tmp_path_factory.mktemp("whole"), LoraConfig(r=4, target_modules="all-linear"))
    return folder, (folder / WEIGHTS).read_bytes()


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    places=st.lists(st.tuples(st.floats(0, 0.3, allow_subnormal=False), st.integers(0, 255)), max_size=4),
    length=st.one_of(st.none(), st.floats(0, 1, allow_subnormal=False)),
)
def test_any_bytes_load_completely_or_are_reported(places, length, whole, tmp_path_factory):
    folder, data = whole
    changed = bytearray(data)
    for where, byte in places:
        changed[int(where * (len(data) - 1))] = byte
    changed = bytes(changed if length is None else changed[: int(length * len(data))])
    (folder / WEIGHTS).write_bytes(changed)
    try:
        files = inspect(str(folder), name="joy")
        assert files.header == parse_header(changed, len(changed))
        adapter = load(folder, files, FitReport("joy", "", True))
    except ComposerError as fault:
        assert str(fault).endswith(".")
        return
    assert adapter == {} and files.bytes == len(changed)


def test_a_folder_behind_links_is_read(llama, folder, tmp_path):
    """As in the Hub's cache, where both files are links."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "linked").mkdir()
    for path in folder.iterdir():
        shutil.move(path, tmp_path / "blobs" / path.name)
        (tmp_path / "linked" / path.name).symlink_to(Path("../blobs") / path.name)
    (tmp_path / "by name").symlink_to(tmp_path / "linked")
    assert by_us(llama, tmp_path / "by name")[0].ok
