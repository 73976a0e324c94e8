"""The trunk against the reference implementations of Qwen3 and Llama in transformers, with shrunken sizes."""

import pytest
import torch
import transformers
from torch import nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from sensorium.config import ModelConfig
from sensorium.model.layers import Block, RMSNorm, rope_tables
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document, TextSegment
from sensorium.sequence.mask import attention_mask
from tests.model.small import pack_documents

SHAPE = {
    "vocab_size": 520,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_theta": 50_000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "attention_bias": False,
    "attn_implementation": "eager",
}


def reference(kind: str, tie: bool) -> nn.Module:
    cls = {"qwen3": "Qwen3", "llama": "Llama"}[kind]
    torch.manual_seed(3)
    config = getattr(transformers, f"{cls}Config")(**SHAPE, tie_word_embeddings=tie)
    model = getattr(transformers, f"{cls}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def ours(kind: str, tie: bool) -> Sensorium:
    return Sensorium(
        ModelConfig(
            vocab_size=520,
            dim=48,
            num_layers=3,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            mlp_dim=80,
            rope_theta=50_000.0,
            norm_eps=1e-5,
            qk_norm=kind == "qwen3",
            tie_embeddings=tie,
        )
    ).eval()


def copy_weights(model: Sensorium, theirs: nn.Module) -> None:
    weights = {name.removeprefix("model."): value for name, value in theirs.state_dict().items()}
    if model.config.tie_embeddings:
        weights.pop("lm_head.weight", None)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) == {"latent_proj.weight", "logit_scale", "logit_bias"}


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("tie", [True, False])
@torch.no_grad()
def test_text_model_gives_the_logits_of_the_reference(kind: str, tie: bool) -> None:
    theirs, model = reference(kind, tie), ours(kind, tie)
    copy_weights(model, theirs)
    ids = torch.randint(0, 520, (2, 17), generator=torch.Generator().manual_seed(0))
    batch = pack_documents([Document([TextSegment(row.tolist())]) for row in ids], model.config)
    torch.testing.assert_close(model.logits(model(batch)), theirs(ids).logits, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_one_block_equals_the_reference_layer() -> None:
    theirs, model = reference("qwen3", True), ours("qwen3", True)
    block = Block(model.config)
    block.load_state_dict(theirs.model.layers[1].state_dict())
    x_BTD = torch.randn(2, 9, 48, generator=torch.Generator().manual_seed(0))
    position_ids = torch.arange(9)[None]
    rope = theirs.model.rotary_emb(x_BTD, position_ids)
    causal = torch.zeros(9, 9).masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -torch.inf)[None, None]
    expected = theirs.model.layers[1](x_BTD, attention_mask=causal, position_embeddings=rope)
    positions = position_ids[..., None].expand(-1, -1, 3)
    given = block(x_BTD, rope_tables(positions, 16, 50_000.0), causal == 0)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-4)


def test_gradients_equal_those_of_the_reference() -> None:
    theirs, model = reference("qwen3", True), ours("qwen3", True)
    copy_weights(model, theirs)
    ids = torch.randint(0, 520, (1, 11), generator=torch.Generator().manual_seed(1))
    batch = pack_documents([Document([TextSegment(ids[0].tolist(), supervised=True)])], model.config)
    theirs(ids, labels=ids).loss.backward()
    logits = model.logits(model(batch))[0, :-1]
    torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
    found = dict(model.named_parameters())
    for name, parameter in theirs.named_parameters():
        own = found[name.removeprefix("model.")].grad
        torch.testing.assert_close(
            own, parameter.grad, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_equals_the_reference(dtype: torch.dtype) -> None:
    x = torch.randn(4, 7, 32, generator=torch.Generator().manual_seed(0)).to(dtype) * 30
    mine, theirs = RMSNorm(32, 1e-6).to(dtype), Qwen3RMSNorm(32, 1e-6).to(dtype)
    with torch.no_grad():
        mine.weight.copy_(torch.randn(32, generator=torch.Generator().manual_seed(1)))
        theirs.weight.copy_(mine.weight)
    exact = dtype == torch.float32
    torch.testing.assert_close(mine(x), theirs(x), atol=1e-5 if exact else 4e-2, rtol=1e-5 if exact else 2e-2)


def test_text_positions_turn_exactly_as_one_axis_rope() -> None:
    p = torch.cat([torch.arange(4096), torch.tensor([32_767, 131_071])])[None]
    for head_dim, theta in ((16, 1e4), (64, 1e6), (128, 1e6)):
        inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angles = p[..., None].float() * inverse
        one_axis = torch.cat([angles, angles], dim=-1)[:, None]
        cos, sin = rope_tables(p[..., None].expand(-1, -1, 3), head_dim, theta)
        assert torch.equal(cos, one_axis.cos())
        assert torch.equal(sin, one_axis.sin())


def test_each_axis_turns_its_own_third_of_the_frequencies() -> None:
    still = rope_tables(torch.zeros(1, 1, 3, dtype=torch.int64), 24, 1e4)[1]
    for axis in range(3):
        position = torch.zeros(1, 1, 3, dtype=torch.int64)
        position[..., axis] = 3
        turned = (rope_tables(position, 24, 1e4)[1] != still)[0, 0, 0]
        assert turned[:12].nonzero()[:, 0].tolist() == list(range(axis, 12, 3))


@torch.no_grad()
def test_the_boolean_mask_is_what_sdpa_applies() -> None:
    """Attention through the block equals softmax over exactly the allowed keys, written out."""
    q, k, v = torch.randn(3, 1, 2, 8, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    doc = torch.tensor([[0, 0, 0, 0, 0, 1, 1, -1]])
    block = torch.tensor([[-1, 0, 0, 1, 1, -1, -1, -1]])
    noisy = torch.tensor([[False, True, True, False, False, False, False, False]])
    mask = attention_mask(doc, block, noisy)
    given = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(given, scores.softmax(-1) @ v)
