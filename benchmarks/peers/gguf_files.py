"""The base as llama.cpp reads it: GGUF files of one type of number."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from composer.adapters.gguf_file import finish

# What the writer sets itself, or what would no longer be true of the new file.
OWN_FIELDS = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
}


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
    finish(writer)
    return target


def architecture(reader: GGUFReader) -> str:
    """GGUF's name of the model's family, such as "llama"."""
    return str(reader.fields[gguf.Keys.General.ARCHITECTURE].contents())


def _copy_fields(reader: GGUFReader, writer: GGUFWriter) -> None:
    for key, field in reader.fields.items():
        if not key.startswith(OWN_FIELDS):
            kind, *of = field.types
            writer.add_key_value(key, field.contents(), kind, sub_type=of[-1] if of else None)
