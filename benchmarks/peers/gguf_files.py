"""The base and its adapters as llama.cpp reads them: GGUF files of one type of number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

# What the writer sets itself, or what would no longer be true of the new file.
OWN_FIELDS = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
}
# Families whose q and k rows GGUF files hold in another order than Hugging Face's.
PERMUTED = ("llama",)
PEFT_PREFIX = "base_model.model."


def write_base(source: Path, target: Path, kind: str) -> Path:
    """A GGUF file of the same weights in another type; names, order and tokenizer stay.

    kind: "F32" dequantises every tensor; "Q8_0" and "Q4_1" round every matrix from its float32 values. The
    float32 values are exactly those that the base is converted to.
    """
    reader = GGUFReader(source)
    writer = GGUFWriter(target, architecture(reader), use_temp_file=False)
    _copy_fields(reader, writer)
    writer.add_file_type(FILE_TYPES[kind])
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)  # [O, K] or [K]
        wanted = GGMLQuantizationType[kind] if values.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quantize(values, wanted), raw_dtype=wanted)
    return _written(writer, target)


def write_adapter(tensors: Mapping[str, np.ndarray], alpha: float, source: Path, target: Path) -> Path:
    """A PEFT LoRA adapter as a GGUF file for the base in `source`.

    tensors: names and values as in PEFT's adapter_model.safetensors, A [R, K] and B [O, R]. alpha: PEFT's
    lora_alpha; llama.cpp divides it by the rank, as PEFT does. Raises KeyError for a module that the base's
    GGUF file has no name for.
    """
    reader = GGUFReader(source)
    arch = architecture(reader)
    layers, heads, kv_heads = (
        int(reader.fields[f"{arch}.{key}"].contents())
        for key in ("block_count", "attention.head_count", "attention.head_count_kv")
    )
    arch_id = next(each for each, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(arch_id, layers)
    writer = GGUFWriter(target, arch, use_temp_file=False)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    for key, value in tensors.items():
        module, _, factor = key.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".lora_")
        name = names.get_name(module)
        if name is None:
            raise KeyError(f"{arch} has no tensor for the module {module}.")
        if factor == "B" and arch in PERMUTED:
            value = permute(value, module, heads, kv_heads)
        writer.add_tensor(f"{name}.weight.lora_{factor.lower()}", np.ascontiguousarray(value, np.float32))
    return _written(writer, target)


def permute(rows: np.ndarray, module: str, heads: int, kv_heads: int) -> np.ndarray:
    """Rows of a q or k projection in the order of GGUF's Llama; those of other modules as they are.

    Hugging Face rotates the two halves of a head against each other, GGUF's Llama each pair of neighbours.
    rows: [O, R].
    """
    count = {"q_proj": heads, "k_proj": kv_heads}.get(module.rpartition(".")[2])
    if count is None:
        return rows
    halves = rows.reshape(count, 2, len(rows) // count // 2, *rows.shape[1:])  # [H, 2, D/2, R]
    return halves.swapaxes(1, 2).reshape(rows.shape)


def architecture(reader: GGUFReader) -> str:
    """GGUF's name of the model's family, such as "llama"."""
    return str(reader.fields[gguf.Keys.General.ARCHITECTURE].contents())


def _copy_fields(reader: GGUFReader, writer: GGUFWriter) -> None:
    for key, field in reader.fields.items():
        if not key.startswith(OWN_FIELDS):
            kind, *of = field.types
            writer.add_key_value(key, field.contents(), kind, sub_type=of[-1] if of else None)


def _written(writer: GGUFWriter, target: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
