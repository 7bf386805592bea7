"""A base proves itself when it is loaded: a family decodes what transformers does, or is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, logging

from composer import Composition, Engine, Sampling
from composer.core.errors import ComposerError
from composer.model.gated_model import GatedModel
from composer.model.runtime import kv_cache
from composer.model.runtime import runner as steps
from composer.model.runtime.llama import runner as llama
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.runner import TransformersRunner
from composer.model.runtime.select import select_runner
from tests.tools import tiny

logging.set_verbosity_error()
PROMPTS = ("abc def ghi jkl mno", "xyz")
TOKENS = 8
MOE = dict(num_experts_per_tok=2, moe_intermediate_size=16)
MLA = dict(q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, head_dim=4)
MLA |= dict(n_routed_experts=4, n_group=1, topk_group=1, **MOE)
NARROW = dict(sliding_window=6)
GQA = dict(num_key_value_heads=2)
CONV = dict(layer_types=["conv", "full_attention"], block_ff_dim=48)
BLOOM = dict(hidden_size=32, n_layer=2, n_head=4)
GPT = dict(n_embd=32, n_layer=2, n_head=4, n_positions=256)

# Family, what its config has beyond the common; those that are run right.
RIGHT = {
    "llama": GQA,
    "llama with biases": GQA | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama with wide heads": GQA | dict(head_dim=16),
    "llama with gelu": dict(hidden_act="gelu"),
    "llama as linear": dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=2.0)),
    "llama as yarn": dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0)),
    "llama as dynamic": dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)),
    "llama as llama3": dict(
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=1e4,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        )
    ),
    "mistral": GQA | NARROW,
    "mistral without windows": GQA | dict(sliding_window=None, head_dim=16),
    "qwen2": GQA | NARROW | dict(use_sliding_window=True, max_window_layers=1),
    "qwen3": GQA | dict(head_dim=16),
    "qwen3_moe": GQA | MOE | dict(num_experts=4, head_dim=8),
    "mixtral": GQA | dict(num_local_experts=4, num_experts_per_tok=2) | NARROW,
    "gemma": GQA | dict(head_dim=16),
    "gemma2": GQA | NARROW | dict(head_dim=16),
    "gemma3_text": GQA | NARROW | dict(head_dim=16, sliding_window_pattern=2),
    "phi": dict(partial_rotary_factor=0.5),
    "phi3": GQA | NARROW,
    "olmo": dict(clip_qkv=0.5),
    "olmo2": GQA,
    "olmo3": GQA | NARROW,
    "olmoe": dict(num_experts=4, num_experts_per_tok=2),
    "granite": dict(residual_multiplier=0.3, attention_multiplier=0.2, logits_scaling=3.0),
    "granite with embeddings scaled": dict(embedding_multiplier=5.0),
    "cohere": dict(logit_scale=0.5),
    "cohere2": GQA | NARROW,
    "stablelm": dict(use_parallel_residual=True, qk_layernorm=True, num_key_value_heads=2),
    "starcoder2": GQA | NARROW,
    "smollm3": GQA | dict(no_rope_layer_interval=2),
    "gpt_oss": GQA | NARROW | dict(head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    "gpt_neox": dict(rotary_pct=0.5, use_parallel_residual=False),
    "gptj": GPT | dict(rotary_dim=4, n_inner=48),
    "gpt_bigcode": GPT | dict(n_inner=48),
    "gpt_neo": dict(attention_types=[[["global"], 2]], num_layers=2, num_heads=4),
    "opt": dict(ffn_dim=48),
    "bloom": BLOOM,
    "falcon": dict(),
    "falcon with alibi": dict(alibi=True, multi_query=False),
    "falcon of 40B": dict(new_decoder_architecture=True, num_kv_heads=2),
    "falcon in sequence": dict(parallel_attn=False, bias=True, multi_query=False),
    "mpt": dict(d_model=32, n_layers=2, n_heads=4, max_seq_len=256),
    "nemotron": GQA,
}
# These are not, so that nobody may meet them.
REFUSED = {
    "gpt_neo with windows": dict(
        attention_types=[[["global", "local"], 1]], num_layers=2, num_heads=4, window_size=6
    ),
    "gpt_neo of the real size": dict(
        attention_types=[[["global", "local"], 1]], num_layers=2, num_heads=4, max_position_embeddings=2048
    ),
    "gpt2": GPT,
    "opt without a final norm": dict(ffn_dim=48, do_layer_norm_before=False, word_embed_proj_dim=16),
    "opt with narrow embeddings": dict(ffn_dim=48, word_embed_proj_dim=16),
    "bert": dict(),
    "bart": dict(d_model=32, decoder_layers=2, decoder_ffn_dim=48, decoder_attention_heads=4),
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "mamba": dict(state_size=4),
    "jamba": GQA | dict(attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_dt_rank=4),
    "recurrent_gemma": dict(num_key_value_heads=1, lru_width=32, attention_window_size=6),
    "lfm2": GQA | CONV,
    "falcon_h1": GQA | dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4),
}


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models as small as these are quickest without company."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def family(name: str) -> str:
    return name.split(" ")[0]


def model(name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    common = tiny.COMMON | dict(num_hidden_layers=2)
    own = {**RIGHT, **REFUSED}[name]
    config = AutoConfig.for_model(family(name), **{**common, **own})
    return tiny.random(config, dtype, norms=0.1)


def greedy(made: torch.nn.Module, prompt: str) -> list[int]:
    """What transformers' own generate goes on with."""
    ids = torch.tensor([tiny.tokenizer()(prompt)["input_ids"]])
    how = dict(do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS, eos_token_id=None)
    return made.generate(ids, attention_mask=torch.ones_like(ids), **how)[0, ids.shape[1] :].tolist()


def words(engine: Engine) -> list[list[int]]:
    """What the engine goes on with, all prompts in one batch."""
    sampling = Sampling(max_new_tokens=TOKENS, temperature=0)
    engine.end_tokens = frozenset()
    result: list[list[int]] = [[] for _ in PROMPTS]
    for step in engine.generate_rows([(prompt, Composition(), sampling) for prompt in PROMPTS]):
        result[step.row].append(step.token)
    return result


@pytest.mark.parametrize("name", RIGHT)
def test_a_family_that_is_let_in_decodes_what_transformers_generates(name):
    made = model(name)
    expected = [greedy(made, prompt) for prompt in PROMPTS]
    assert words(tiny.engine_of(made)) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_is_not_is_refused_by_its_name(name):
    with pytest.raises(ComposerError, match=rf"family {family(name)}[ ,].*(choose|use) .*\.$") as fault:
        tiny.engine_of(model(name))
    assert "\n" not in str(fault.value)


# Half precision rounds, and a mixture of experts may send a token elsewhere: that alone refuses nobody.
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gemma3_text", "mixtral", "gpt_oss", "falcon", "opt", "bloom"]
)
def test_rounding_does_not_fail_the_check(name, dtype):
    tiny.engine_of(model(name, getattr(torch, dtype)), dtype=dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["gpt_neo with windows", "gpt_neo of the real size", "bert"])
def test_another_token_is_distinguished_from_rounding(name, dtype):
    with pytest.raises(ComposerError, match=family(name)):
        tiny.engine_of(model(name, getattr(torch, dtype)), dtype=dtype)


def test_numbers_that_are_not_finite_are_called_so():
    made = model("llama")
    made.model.norm.weight[3] = float("nan")
    with pytest.raises(ComposerError, match=r"family llama.*not finite in float32.*dtype"):
        tiny.engine_of(made)
    overflowing = model("qwen3", torch.float16)
    overflowing.model.layers[1].mlp.down_proj.weight.mul_(60000)
    with pytest.raises(ComposerError, match=r"family qwen3.*not finite in float16.*dtype"):
        tiny.engine_of(overflowing, dtype="float16")


def test_too_little_memory_is_no_fault_of_the_family(monkeypatch):
    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LlamaRunner, "read", full)
    with pytest.raises(ComposerError, match=r"not enough memory"):
        tiny.engine_of(model("llama"))


def test_a_pass_of_its_own_that_is_wrong_gives_way_to_the_modules(monkeypatch):
    turn = LlamaRunner.rope_table
    monkeypatch.setattr(
        LlamaRunner, "rope_table", lambda self, max_seq_len: turn(self, max_seq_len).roll(1, 1)
    )
    assert isinstance(tiny.engine_of(model("llama")).runner, TransformersRunner)
    monkeypatch.setattr(LlamaRunner, "rope_table", turn)
    assert isinstance(tiny.engine_of(model("llama")).runner, NativeRunner)
    monkeypatch.setattr(LlamaRunner, "read", lambda *_, **__: 1 / 0)
    with pytest.raises(ComposerError, match="llama"):
        proven_int8(model("llama"))


def proven_int8(made: torch.nn.Module) -> Engine:
    from composer.core.catalog_types import BaseSpec, Catalog
    from composer.model.loading import Base

    spec = BaseSpec("llama", "tiny/llama")
    base = Base(spec, "memory", "folder", made, tiny.tokenizer())
    return Engine(Catalog(folder=".", default="llama", bases={"llama": spec}), base, "int8")


def test_int8_decoding_is_proven_too():
    engine = proven_int8(model("llama"))
    assert engine.runner.weights == "int8" and engine.runner.compiled
    assert len(words(engine)[0]) == TOKENS


# Windows of thousands of tokens, which no short text reaches, are tried all the same.
@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "phi3", "gpt_oss", "qwen2"])
def test_a_long_window_that_is_left_out_is_noticed(name, monkeypatch):
    made = model(name)
    made.config.sliding_window = 4096
    assert 4096 in windows(tiny.engine_of(made).runner)
    assert made.config.sliding_window == 4096
    blind = kv_cache.decode_mask
    for module in (steps, llama):
        monkeypatch.setattr(
            module, "decode_mask", lambda positions, length, dtype, window: blind(positions, length, dtype)
        )
    with pytest.raises(ComposerError, match=family(name)):
        tiny.engine_of(model(name))


def windows(runner: NativeRunner | TransformersRunner) -> tuple[int | None, ...]:
    return runner.inner.shape.windows if isinstance(runner, NativeRunner) else (runner._window,)


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "qwen2"])
def test_a_pass_of_its_own_that_reads_prompts_beyond_the_window_gives_way(name, monkeypatch):
    monkeypatch.setattr(llama, "_causal_mask", lambda _pack, _window: None)
    made = model(name)
    made.config.sliding_window = 4096
    assert isinstance(tiny.engine_of(made).runner, TransformersRunner)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "opt", "bloom", "gptj"])
def test_a_place_too_few_or_too_many_is_noticed(name, shift, monkeypatch):
    def shifted(kept):
        def call(self, under, inputs, cache):
            return kept(self, under, inputs._replace(positions=inputs.positions + shift), cache)

        return call

    for kind in (TransformersRunner, LlamaRunner):
        monkeypatch.setattr(kind, "__call__", shifted(kind.__call__))
    with pytest.raises(ComposerError, match=family(name)):
        tiny.engine_of(model(name))


@pytest.mark.parametrize("max_seq_len", [1, 2, 3, 5])
def test_a_context_of_a_few_tokens_is_no_fault(max_seq_len):
    tiny.engine_of(
        tiny.random(
            AutoConfig.for_model(
                "opt", **tiny.COMMON | dict(ffn_dim=48, max_position_embeddings=max_seq_len + 2)
            )
        )
    )


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_the_proof_leaves_nothing_behind(name):
    made = model(name)
    places = {key: value.data_ptr() for key, value in made.state_dict().items()}
    before = made.config.to_dict(), torch.get_rng_state()
    engine = tiny.engine_of(made)
    assert made.config.to_dict() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert {value.data_ptr() for value in made.state_dict().values()} == set(places.values())
    if name == "llama":
        assert not engine.runner.inner._tables and not engine.runner.inner._rope_tables
    fresh = select_runner(GatedModel(model(name)))
    assert type(fresh) is type(engine.runner)
    if isinstance(fresh, TransformersRunner):
        assert vars(fresh).keys() == vars(engine.runner).keys() and fresh._window == engine.runner._window


def test_a_longrope_base_ends_where_its_angles_would_change():
    rope = dict(
        rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 4, long_factor=[4.0] * 4, factor=4.0
    )
    config = tiny.COMMON | dict(original_max_position_embeddings=64, rope_parameters=rope)
    made = tiny.random(AutoConfig.for_model("phi3", **config))
    assert tiny.engine_of(made).base.context == 64
