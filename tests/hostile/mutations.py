"""Valid documents with some places replaced by what strangers write."""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from tests.hostile.readers import CONFIG, RECIPE, REQUEST, TENSORS, TOKENIZER
from tests.tools import gguf_bases

CATALOG = yaml.safe_load((Path(__file__).parents[2] / "adapters.yaml").read_text("utf-8"))
LEAVES = (
    None, True, False, 0, 1, -1, 8, 10**30, -(10**30), 2**63, 1.5, float("inf"), float("-inf"), float("nan"),
    1e-320, "", " ", "\x00", "\u202etxt", "\u200b", "../../etc/passwd", "/etc/passwd", "~", "~root/x",
    "file:///etc/passwd", "https://evil.example/a/b", "(a+)+$", "(?:(?:a*)*)*b", "(?P<x>a)(?P=x)", "[", "\\",
    "a" * 3000, "\ud800", "<script>alert(1)</script>", "{{7*7}}", "$(reboot)", "CON", "..", "\U0001d552",
    "e\u0301", "\ufb01", "owner/name", "owner/../name", "q_proj", "all-linear", "sum",
    "model.layers.0.self_attn.q_proj", "kl", "positive", "\n\n", "\r", "\t", "0x10", "1_000", "1e999", "yes",
    "!!python/object/apply:os.system [x]",
    "&a *a", "<<", "-", "'", '"', "%s%n", "\u2028", "\ufeff", "😀" * 40, [], {}, [[]], {"": {}},
)  # fmt: skip


class Mutator:
    """Makes hostile bytes for each reader. rate: how likely each place of a document is replaced."""

    def __init__(self, seed: int, rate: float = 0.03):
        self.random, self.rate = random.Random(seed), rate

    def bytes_for(self, kind: str) -> bytes:
        return self._torn(MAKERS[kind](self))

    def value(self, depth: int = 0) -> object:
        choice = self.random.random()
        if depth > 3 or choice < 0.6:
            return self.random.choice(LEAVES)
        if choice < 0.8:
            return [self.value(depth + 1) for _ in range(self.random.randint(0, 4))]
        return {
            str(self.random.choice(LEAVES))[:60]: self.value(depth + 1)
            for _ in range(self.random.randint(0, 4))
        }

    def changed(self, document: object) -> object:
        """The document with places replaced, left out and added."""
        if self.random.random() < self.rate:
            return self.value()
        if isinstance(document, dict):
            kept = {
                key: self.changed(own)
                for key, own in document.items()
                if self.random.random() > self.rate / 2
            }
            extra = {str(self.value())[:80]: self.value()} if self.random.random() < self.rate else {}
            return kept | extra
        if isinstance(document, list):
            return [self.changed(each) for each in document]
        return document

    def header(self) -> bytes:
        place, document = 0, {}
        for name, each in TENSORS.items():
            document[name] = {**each, "data_offsets": [place, place + 256]}
            place += 256
        text = json.dumps(self.changed(document)).encode()
        lengths = (len(text),) * 8 + (0, 1, 2**63, 2**64 - 1, 10**9)
        return struct.pack("<Q", self.random.choice(lengths)) + text + bytes(place)

    def yaml(self, document: object) -> bytes:
        changed = self.changed(document)
        try:
            text = yaml.safe_dump(changed, allow_unicode=True)
        except yaml.YAMLError:
            text = json.dumps(changed)
        if self.random.random() < 0.3:
            letters = list(text)
            for _ in range(self.random.randint(1, 8)):
                letters[self.random.randrange(len(letters))] = self.random.choice(
                    ":-{}[]&*!|>'\"#%@`\t\n0a\x00"
                )
            text = "".join(letters)
        return text.encode("utf-8", "surrogatepass")

    def rows(self) -> list[object]:
        return [
            self.changed({"text": "The lake is still tonight."}) for _ in range(self.random.randint(0, 6))
        ]

    def _torn(self, data: bytes) -> bytes:
        """Sometimes cut short, sometimes with other bytes in it."""
        choice = self.random.random()
        if data and choice < 0.05:
            return data[: self.random.randrange(len(data))]
        if data and choice < 0.12:
            torn = bytearray(data)
            for _ in range(self.random.randint(1, 8)):
                torn[self.random.randrange(len(torn))] = self.random.randrange(256)
            return bytes(torn)
        return data


def _json(document: object) -> Callable[[Mutator], bytes]:
    return lambda mutator: json.dumps(mutator.changed(document)).encode()


def _link(mutator: Mutator) -> bytes:
    text = base64.urlsafe_b64encode(_json(RECIPE)(mutator)).rstrip(b"=")
    return text + mutator.random.choice((b"",) * 9 + (b"!", b"=", b"%00", b"a" * 9000))


def _card(mutator: Mutator) -> bytes:
    head = mutator.yaml({"license": "mit", "datasets": ["owner/name"], "tags": ["x"]})
    return (
        b"---\n"
        + head
        + f"---\n# x\n\n## Data\n\n- `owner/name` (rows). {mutator.value()}".encode("utf-8", "surrogatepass")
    )


NUMBERS = (0, 1, 2, 3, 5, 8, 64, 257, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1, -1)


def _gguf(mutator: Mutator) -> bytes:
    """A file whose counts, keys, values, shapes, types and places are not those of its tensors."""
    draw, given = mutator.random, gguf_bases.document()
    for key in list(given["fields"]):
        if draw.random() < mutator.rate:
            given["fields"][key] = _typed(mutator)
        if draw.random() < mutator.rate / 4:
            given["fields"][_key(mutator)] = given["fields"].pop(key)
    for name, (shape, kind) in list(given["tensors"].items()):
        if draw.random() < mutator.rate:
            shape = [draw.choice(NUMBERS) for _ in range(draw.randint(0, 5))]
        kind = draw.choice(NUMBERS) if draw.random() < mutator.rate else kind
        places = [draw.choice(NUMBERS) * draw.choice((1, 32))] if draw.random() < mutator.rate else []
        given["tensors"][name] = [shape, kind, *places]
        if draw.random() < mutator.rate:
            given["tensors"][_key(mutator)] = given["tensors"].pop(name)
    for key in ("magic", "version", "tensor_count", "key_count"):
        if draw.random() < mutator.rate:
            given[key] = draw.choice(NUMBERS)
    return gguf_bases.pack(given, data=None if draw.random() > mutator.rate else 64)


def _key(mutator: Mutator) -> str:
    return str(mutator.random.choice(LEAVES))[:300]


def _typed(mutator: Mutator, depth: int = 0) -> list[object]:
    """A value of some kind as `gguf_bases.pack` takes it: unknown kinds, and lists of lists, too."""
    draw = mutator.random
    kind = draw.choice(("U8", "U32", "I32", "U64", "F32", "F32", "BOOL", "STRING", "ARRAY", "ARRAY", 77))
    if kind == "STRING":
        return [kind, draw.choice((_key(mutator), b"\xff\xfe", "x" * 3000))]
    if kind == "F32":
        return [kind, draw.choice((float("nan"), float("inf"), -1.0, 0.0, 1e-30, 2.0))]
    if kind != "ARRAY" or depth > 2:
        return [kind if kind != "ARRAY" else "U32", draw.choice(NUMBERS)]
    own, value = _typed(mutator, depth + 1)
    return [
        kind,
        [own, [value] * draw.randint(0, 3), *([draw.choice(NUMBERS)] if draw.random() < 0.5 else [])],
    ]


def _source(mutator: Mutator) -> bytes:
    one, two = str(mutator.random.choice(LEAVES)), str(mutator.random.choice(LEAVES))
    text = mutator.random.choice(
        (one, f"owner/{one}", f"https://huggingface.co/{one}/{two}", f"{one}/{two}@{one}")
    )
    return text.encode("utf-8", "surrogatepass")


MAKERS: Mapping[str, Callable[[Mutator], bytes]] = {
    "header": Mutator.header,
    "config": _json(CONFIG),
    "fit": _json({"config": CONFIG, "tensors": TENSORS}),
    "catalog": lambda mutator: mutator.yaml(CATALOG),
    "recipe": _json(RECIPE),
    "recipe file": lambda mutator: mutator.yaml(RECIPE),
    "link": _link,
    "curves": _json({"curves": REQUEST["curves"], "schedule": REQUEST["schedule"]}),
    "request": _json(REQUEST),
    "sampling": _json(REQUEST["sampling"]),
    "card": _card,
    "source": _source,
    "gguf": _gguf,
    "tokenizer": _json(TOKENIZER),
    "texts.txt": lambda mutator: "\n\n".join(map(str, mutator.rows())).encode("utf-8", "surrogatepass"),
    "texts.jsonl": lambda mutator: "\n".join(map(json.dumps, mutator.rows())).encode(),
    "texts.csv": lambda mutator: "\n".join(["text", *(json.dumps(each) for each in mutator.rows())]).encode(),
}
