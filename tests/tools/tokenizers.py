"""Tokenizers of every kind that bases come with: small vocabularies, decoders as the real ones have them."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

CORPUS = [
    "The quick brown fox doesn't jump over the lazy dog, he said; it's 12.5 metres away!  Two spaces.",
    "Les élèves français mangent des crêpes à Noël.\nEine größere Straße.\n\nČeština, Tiếng Việt.",
    "日本語の文章です。 한국어 문장입니다. 中文句子。 Русский текст. ελληνικά. עברית العربية हिन्दी ไทย",
]
PIECES = sorted({piece for text in CORPUS for word in text.split() for piece in (word, word[:2], word[0])})
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def _wrapped(raw: Tokenizer, **more) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, **SPECIAL, **more)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.add_tokens([AddedToken("<tool>"), AddedToken(" <space>", normalized=False), AddedToken("日本")])
    return fast


def byte_level(**more) -> PreTrainedTokenizerFast:
    """As GPT-2, Qwen, Llama 3 and SmolLM2 have it."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    return _wrapped(raw, **more)


def _sentencepiece(decoder) -> PreTrainedTokenizerFast:
    marked = ["▁", "▁▁", "▁a", "\ufffd", "a\u0301", "\u0301", "\u200d", "👩", "é", "日", "."]
    marked += ["▁" + piece for piece in PIECES[::3]] + PIECES[::4]
    vocabulary = list(dict.fromkeys(["<unk>", "<s>", "</s>", *BYTES, *marked]))
    raw = Tokenizer(
        models.BPE(
            vocab={token: place for place, token in enumerate(vocabulary)},
            merges=[],
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(decoder)
    return _wrapped(raw)


def llama2() -> PreTrainedTokenizerFast:
    """As Llama 2, Mistral 0.1 and Phi 3 have it: byte fallback, and the text's first space is dropped."""
    fused = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return _sentencepiece(fused)


def gemma() -> PreTrainedTokenizerFast:
    """Byte fallback, and the first space stays."""
    return _sentencepiece([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def unigram() -> PreTrainedTokenizerFast:
    """As T5 and XGLM have it."""
    raw = Tokenizer(models.Unigram([("<unk>", 0.0)] + [("▁", -2.0)] + [(p, -3.0) for p in PIECES], 0, False))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    return _wrapped(raw)


def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT has it, with its cleaning of spaces."""
    pieces = ["<unk>", *PIECES, *("##" + piece for piece in PIECES), ".", ",", "n't", "do", "'s"]
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(pieces))}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    return _wrapped(raw, clean_up_tokenization_spaces=True)


def word_ends() -> PreTrainedTokenizerFast:
    """As GPT-1 has it: a word's last piece says so, and no space follows the last word."""
    pieces = ["<unk>", *PIECES, *(piece + "</w>" for piece in PIECES)]
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(pieces))}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.decoder = decoders.BPEDecoder()
    return _wrapped(raw)


class Slow(PreTrainedTokenizer):
    """A tokenizer in Python: one token a byte, broken ones replaced as GPT-2's slow one does it."""

    strips = False

    def __init__(self, **more):
        self._bytes = [chr(256 + byte) for byte in range(256)]
        super().__init__(**SPECIAL, **more)

    @property
    def vocab_size(self) -> int:
        return 256

    def get_vocab(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self._bytes)} | self.added_tokens_encoder

    def _tokenize(self, text: str) -> list[str]:
        return [self._bytes[byte] for byte in text.encode()]

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token) - 256 if len(token) == 1 else 0

    def _convert_id_to_token(self, index: int) -> str:
        return self._bytes[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        parts = [bytes([ord(token) - 256]) if token in self._bytes else token.encode() for token in tokens]
        text = b"".join(parts).decode("utf-8", errors="replace")
        return text.strip() if self.strips else text


class Stripping(Slow):
    """The same, without spaces at both ends."""

    strips = True


KINDS = {
    "byte-level": byte_level,
    "llama2": llama2,
    "gemma": gemma,
    "unigram": unigram,
    "wordpiece": wordpiece,
    "word-ends": word_ends,
    "slow": Slow,
    "stripping": Stripping,
}
