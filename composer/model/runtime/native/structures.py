"""The structures that step.cpp reads, with the same fields in the same order, and what keeps their memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from dataclasses import dataclass, field

import torch


class Matrix(Structure):
    _fields_ = [
        ("storage", c_int64),
        ("rows", c_int64),
        ("columns", c_int64),
        ("data", c_void_p),
        ("scale", c_void_p),
        ("offset", c_void_p),
        ("bias", c_void_p),
    ]


class AdapterSlice(Structure):
    _fields_ = [
        ("adapter", c_int64),
        ("rank", c_int64),
        ("gram", c_void_p),
    ]


class SiteSlice(Structure):
    _fields_ = [
        ("left", c_int64),
        ("right", c_int64),
        ("top", c_int64),
        ("bottom", c_int64),
        ("place", c_int64),
        ("B", Matrix),
        ("parts", c_int64),
        ("part", POINTER(AdapterSlice)),
    ]


class Linear(Structure):
    _fields_ = [
        ("weight", Matrix),
        ("A", Matrix),
        ("rank", c_int64),
        ("start", c_int64),
        ("sites", c_int64),
        ("site", POINTER(SiteSlice)),
    ]


class Layer(Structure):
    _fields_ = [
        ("qkv", Linear),
        ("o", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("post_attention", c_void_p),
        ("post_mlp", c_void_p),
        ("window", c_int64),
        ("rope", c_int64),
        ("origin", c_int64),
    ]


class Model(Structure):
    _fields_ = [
        ("layers", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("width", c_int64),
        ("inner", c_int64),
        ("gelu", c_int64),
        ("eps", c_float),
        ("scaling", c_float),
        ("embedding_scale", c_float),
        ("padding", c_float),
        ("layer", POINTER(Layer)),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("head", Matrix),
    ]


class Router(Structure):
    _fields_ = [
        ("sites", c_int64),
        ("adapters", c_int64),
        ("part", c_void_p),
        ("keep", c_void_p),
        ("swing", c_void_p),
        ("by_norm", c_void_p),
        ("top", c_void_p),
        ("scaling", c_void_p),
        ("prototype", c_void_p),
    ]


class Step(Structure):
    _fields_ = [
        ("rows", c_int64),
        ("length", c_int64),
        ("rope_length", c_int64),
        ("ranks", c_int64),
        ("adapters", c_int64),
        ("outs", c_int64),
        ("tokens", c_void_p),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("last", c_void_p),
        ("cache", POINTER(c_void_p)),
        ("rope", POINTER(c_void_p)),
        ("scales", c_void_p),
        ("coded", c_void_p),
        ("energy", c_void_p),
        ("contribution", c_void_p),
        ("logits", c_void_p),
        ("hidden", c_void_p),
        ("router", POINTER(Router)),
    ]


@dataclass
class Kept:
    """Keeps alive what structures point to."""

    parts: list[object] = field(default_factory=list)

    def pointer(self, tensor: torch.Tensor | None) -> int | None:
        """The address of a contiguous tensor."""
        if tensor is None:
            return None
        assert tensor.is_contiguous()
        self.parts.append(tensor)
        return tensor.data_ptr()

    def floats(self, tensor: torch.Tensor | None) -> int | None:
        """The address of a tensor as contiguous float32."""
        return None if tensor is None else self.pointer(tensor.detach().float().contiguous())


def addresses(tensors: Sequence[torch.Tensor]) -> ctypes.Array[c_void_p]:
    return (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of its functions' arguments and results."""
    library.team_new.argtypes, library.team_new.restype = [ctypes.c_int], c_void_p
    library.decode.argtypes = [c_void_p, POINTER(Model), POINTER(Step)]
    library.decode.restype = ctypes.c_int
    return library
