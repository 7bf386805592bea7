"""Everything that reads what a stranger wrote, each as a function of the stranger's bytes."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from composer.adapters.catalog import load_catalog
from composer.adapters.files import AdapterFiles, TensorInfo, read_config
from composer.adapters.fit.report import check_fit
from composer.adapters.header import read_header
from composer.adapters.model_card import parse_card
from composer.adapters.recipe import parse_recipe, read_recipe
from composer.core.catalog_types import BaseSpec
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.model.checkpoints.gguf_check import check_gguf
from composer.model.checkpoints.gguf_header import GgufFault
from composer.model.loading import load_base
from composer.training.own_texts.reader import read_texts
from composer.ui.components import curves
from composer.ui.settings import Settings
from composer.ui.sharing import decode
from composer.ui.validation import check_source, make_request, read_source
from tests.tools import tiny

SITES = {
    f"model.layers.{layer}.self_attn.{own}": (16, 16) for layer in (0, 1) for own in ("q_proj", "v_proj")
}
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
    "rank_pattern": {"q_proj": 4},
    "alpha_pattern": {"v_proj": 16},
    "layers_to_transform": [0, 1],
    "layers_pattern": "layers",
    "exclude_modules": None,
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "init_lora_weights": True,
    "base_model_name_or_path": "owner/name",
}
TENSORS = {
    f"base_model.model.{site}.lora_{matrix}.weight": {
        "dtype": "F32",
        "shape": [4, 16] if matrix == "A" else [16, 4],
    }
    for site in SITES
    for matrix in "AB"
}
RECIPE = {
    "version": 1,
    "base": {"id": "owner/name", "revision": "main"},
    "prompt": "The",
    "composition": {
        "weights": {"positive": 1.0},
        "method": "sum",
        "strength": 1.0,
        "bands": [1, 1, 1],
        "curves": {"positive": [1] * 9},
        "schedule": {"positive": [1, None]},
    },
    "sampling": {"seed": 1, "temperature": 1.0, "top_p": 0.9, "top_k": 50, "max_new_tokens": 10},
    "adapters": {"positive": {"id": "owner/name"}},
    "tab": "compose",
}
REQUEST = {
    "prompt": "The film",
    "weights": {"positive": 1.0},
    "method": "sum",
    "bands": [1, 1, 1],
    "parameters": {"strength": 1.0, "blend": 1.0, "contrast": 0.5},
    "sampling": {"seed": 1, "temperature": 1.0, "top_p": 0.9, "top_k": 50, "max_new_tokens": 10},
    "curves": {"positive": [1] * 9},
    "schedule": {"positive": [1, None]},
}
TOKENIZER = {
    "tokenizer.json": {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 8,
                "content": "<end>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "\u2019"}, "content": "'"}],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": " ?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+"},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<end>": {"id": "<end>", "ids": [8], "tokens": ["<end>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {"a": 0, "b": 1, "h": 2, "e": 3, "l": 4, "o": 5, "\u0120": 6, "ab": 7},
            "merges": [["a", "b"]],
        },
    },
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<end>",
        "model_max_length": 256,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {"8": {"content": "<end>", "special": True, "normalized": False}},
        "chat_template": "{% for m in messages %}{{ m.role }} {{ m.content }}{{ eos_token }}{% endfor %}",
    },
}

Read = Callable[[bytes, Path], object]


def _document(data: bytes) -> object:
    """What a browser's or a program's JSON becomes, NaN and infinite numbers too; None where it is none."""
    try:
        return json.loads(_text(data))
    except (ValueError, RecursionError):
        return None


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _mapping(data: bytes) -> dict:
    found = _document(data)
    return found if isinstance(found, dict) else {}


def _written(name: str, read: Callable[[Path], object]) -> Read:
    def from_file(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return from_file


def _fit(data: bytes, folder: Path) -> object:
    given = _mapping(data)
    config, tensors = given.get("config"), given.get("tensors")
    header = {
        name: TensorInfo(each["dtype"], tuple(each["shape"]))
        for name, each in (tensors if isinstance(tensors, dict) else {}).items()
        if isinstance(each, dict)
        and isinstance(each.get("dtype"), str)
        and isinstance(each.get("shape"), list)
        and all(type(size) is int and size >= 0 for size in each["shape"])
    }
    report = check_fit(
        AdapterFiles("mine", "here", None, config if isinstance(config, dict) else {}, header, 1000, folder),
        SITES,
    )
    if not report.ok:
        raise ComposerError(" ".join(report.reasons))
    return report


def _request(data: bytes, folder: Path) -> object:
    given = {**REQUEST, **{key: own for key, own in _mapping(data).items() if key in REQUEST}}
    # The page's own code makes these four; what is in them comes over the wire.
    for key, kind in (("weights", dict), ("parameters", dict), ("sampling", dict), ("bands", list)):
        if not isinstance(given[key], kind):
            given[key] = REQUEST[key]
    for key in ("parameters", "sampling"):
        given[key] = {name: own for name, own in given[key].items() if name in REQUEST[key]}
    return make_request(**given, settings=Settings())


def _curves(data: bytes, folder: Path) -> object:
    return Composition(weights={"positive": 1}, **curves.read(_document(data), ["positive"]))


def _source(data: bytes, folder: Path) -> object:
    text = _text(data)
    found = read_source(text, folders=False)
    assert found is None or (".." not in found[0].split("/") and not found[0].startswith(("/", "~")))
    return check_source(text, folders=False)


def _gguf(path: Path) -> object:
    try:
        return check_gguf(path)
    except GgufFault as fault:
        raise ComposerError(f"The file cannot be converted, because {fault}.") from fault


@cache
def _base_files() -> Mapping[str, bytes]:
    """A base's folder, but for its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        tiny.model("llama").save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _tokenizer(data: bytes, folder: Path) -> object:
    """The tokenizer's files are in one JSON mapping; what is no mapping itself is written as it is."""
    given, base = _mapping(data), folder / "base"
    base.mkdir(exist_ok=True)
    for name, content in _base_files().items():
        (base / name).write_bytes(content)
    for name in TOKENIZER:
        own = given.get(name, "")
        text = own if isinstance(own, str) else json.dumps(own)
        (base / name).write_text(text, "utf-8", "surrogatepass")
    loaded = load_base(BaseSpec("mine", "owner/base", folder=str(base), prompting="chat"), "cpu")
    return loaded.encode("hello ab")


READERS: Mapping[str, Read] = {
    "header": _written("adapter_model.safetensors", lambda path: read_header("mine", path)),
    "config": _written("adapter_config.json", lambda path: read_config("mine", path)),
    "fit": _fit,
    "catalog": _written("adapters.yaml", load_catalog),
    "recipe": lambda data, folder: read_recipe(_document(data)),
    "recipe file": lambda data, folder: parse_recipe(data.decode("utf-8", "replace")),
    "link": lambda data, folder: decode(data.decode("utf-8", "replace")),
    "curves": _curves,
    "request": _request,
    "sampling": lambda data, folder: Sampling(
        **{key: own for key, own in _mapping(data).items() if key in Sampling.__dataclass_fields__}
    ),
    "card": lambda data, folder: parse_card(data.decode("utf-8", "replace")),
    "source": _source,
    "gguf": _written("base.gguf", _gguf),
    "tokenizer": _tokenizer,
    "texts.txt": _written("mine.txt", lambda path: read_texts([path])),
    "texts.jsonl": _written("mine.jsonl", lambda path: read_texts([path])),
    "texts.csv": _written("mine.csv", lambda path: read_texts([path])),
}


def outcome(kind: str, data: bytes, folder: Path) -> str:
    """ "ok", or the sentence of the refusal. Raises whatever else a reader raises."""
    try:
        READERS[kind](data, folder)
    except ComposerError as fault:
        return str(fault)
    return "ok"


def fault_of(sentence: str, folder: Path) -> str | None:
    """Why a sentence must not be shown; None for a good one."""
    if not sentence.strip() or len(sentence) > 1000:
        return "it is empty, or longer than anybody reads"
    kinds = {unicodedata.category(char) for char in sentence}
    if kinds & {"Cc", "Cs", "Cf"}:
        return "it has characters that nobody sees, or that turn the text around"
    if str(folder) in sentence or "Traceback" in sentence or " object at 0x" in sentence:
        return "it tells what is inside"
    return None
