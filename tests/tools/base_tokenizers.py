"""Small tokenizers that begin, end and fill texts as those of Llama 3, Qwen, Mistral and Gemma do."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerFast

from tests.tools import tokenizers as kinds

LLAMA3_CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@dataclass(frozen=True)
class BaseTokenizer:
    """A tokenizer and what a base's files say beside it."""

    made: PreTrainedTokenizerFast
    # Those that end a text by generation_config.json.
    ends: tuple[str, ...]
    # How many tokens the model has embeddings for, more (Qwen) or fewer (Gemma) than the tokenizer has.
    vocabulary: int


def llama3() -> BaseTokenizer:
    """A byte-level one that puts a token before each text; several tokens end one, and none fills."""
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    names += ["<|eom_id|>"]
    made = _made(kinds.byte_level(), names, "<|begin_of_text|>", "<|eot_id|>", None, LLAMA3_CHAT)
    return BaseTokenizer(made, ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), len(made))


def qwen() -> BaseTokenizer:
    """A byte-level one that puts nothing before a text; the model has rows that no token has."""
    made = _made(kinds.byte_level(), ["<|endoftext|>"], None, "<|im_end|>", "<|endoftext|>", QWEN_CHAT)
    return BaseTokenizer(made, ("<|im_end|>", "<|endoftext|>"), len(made) + 40)


def mistral() -> BaseTokenizer:
    """A SentencePiece one with byte fallback that drops the first space; nothing fills."""
    made = _made(kinds.llama2(), ["[INST]", "[/INST]"], "<s>", "</s>", None, MISTRAL_CHAT)
    return BaseTokenizer(made, ("</s>",), len(made))


def gemma() -> BaseTokenizer:
    """A SentencePiece one with byte fallback that keeps spaces; its last token is an image's, and no row of
    the text model's is that token's."""
    names = ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<image_soft_token>"]
    like = kinds.gemma()
    like.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    made = _made(like, names, "<bos>", "<eos>", "<pad>", GEMMA_CHAT)
    return BaseTokenizer(made, ("<eos>", "<end_of_turn>"), len(made) - 1)


BASES = {"llama3": llama3, "qwen": qwen, "mistral": mistral, "gemma": gemma}


def _made(
    like: PreTrainedTokenizerFast,
    names: list[str],
    first: str | None,
    end: str,
    fill: str | None,
    chat: str,
) -> PreTrainedTokenizerFast:
    raw: Tokenizer = like.backend_tokenizer
    raw.add_special_tokens([AddedToken(name, special=True) for name in names])
    if first:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, raw.token_to_id(first))]
        )
    given = {"bos_token": first, "eos_token": end, "pad_token": fill}
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, **{key: value for key, value in given.items() if value}
    )
    made.chat_template = chat
    return made
