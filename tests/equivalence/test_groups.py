"""Documents laid side by side give what one mask over packed rows gives: values, gradients, losses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.losses import compute_losses
from sensorium.model.kernels import RMSNormFunction, ShortAttentionFunction, TurnFunction, _rounded
from sensorium.model.layers import Attention, Linear, RMSNorm, apply_rope, attend, rope_tables
from sensorium.model.sensorium import NoisyMedia, Sensorium, add_noise
from sensorium.sequence.mask import attention_mask, flex_block_mask, group_documents
from sensorium.sequence.packing import Batch
from tests.model.small import documents, noise_for, pack_documents, random_model, small_config

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@st.composite
def packed_rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Several rows of documents of text runs, noisy blocks with or without a clean copy, then padding."""
    rows, index = [], 0
    for _ in range(draw(st.integers(1, 3))):
        row: list[tuple[int, int, bool]] = []
        for _ in range(draw(st.integers(0, 4))):
            block = 0
            for _ in range(draw(st.integers(1, 3))):
                length, kind = (
                    draw(st.integers(1, 5)),
                    draw(st.sampled_from(["text", "clean", "noisy", "copied"])),
                )
                if kind == "text":
                    row += [(index, -1, False)] * length
                    continue
                row += [(index, block, kind != "clean")] * length
                if kind == "copied":
                    block += 1
                    row += [(index, block, False)] * length
                block += 1
            index += 1
        rows.append(row)
    if not index:
        rows[0], index = [(0, -1, False)], 1
    width = max(map(len, rows)) + draw(st.integers(0, 3))
    full = [row + [(-1, -1, False)] * (width - len(row)) for row in rows]
    doc, block_ids, noisy = (torch.tensor([[item[i] for item in row] for row in full]) for i in range(3))
    return doc, block_ids, noisy


@settings(deadline=None)
@given(packed_rows(), st.integers(0, 2**16))
def test_attention_in_groups_is_attention_under_the_one_mask(
    ids: tuple[torch.Tensor, torch.Tensor, torch.Tensor], seed: int
) -> None:
    doc, _, _ = ids
    B, T = doc.shape
    generator = torch.Generator().manual_seed(seed)
    packed = [torch.randn(B, heads, T, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2)]
    is_real = doc >= 0
    pull = torch.randn(int(is_real.sum()), 4, 8, generator=generator)
    expected = attend(*packed, attention_mask(*ids)).transpose(1, 2)[is_real]

    groups = group_documents(*ids)
    laid = [x.transpose(1, 2).flatten(0, 1)[groups.index_N][None].transpose(1, 2) for x in packed]
    given = attend(*laid, groups)[0].transpose(0, 1)[groups.inverse_BT[is_real]]

    torch.testing.assert_close(given, expected, **CLOSE)
    for mine, theirs in zip(
        torch.autograd.grad(given, packed, pull), torch.autograd.grad(expected, packed, pull), strict=True
    ):
        torch.testing.assert_close(mine, theirs, **CLOSE)


@given(packed_rows())
def test_groups_hold_every_position_once_and_little_padding(
    ids: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    doc, block, noisy = ids
    groups = group_documents(doc, block, noisy)
    real = (doc.flatten() >= 0).nonzero()[:, 0]
    assert torch.equal(groups.index_N[groups.inverse_BT.flatten()[real]], real)
    assert len(groups.index_N) == sum(m.shape[0] * m.shape[-1] for m in groups.masks)
    # One group as wide as the longest document is always on offer.
    lengths = doc[doc >= 0].unique(return_counts=True)[1]
    assert len(groups.index_N) <= len(lengths) * int(lengths.max())


@settings(deadline=None, max_examples=10)
@given(packed_rows())
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_takes_a_block_mask(ids: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    """The GPU's way; on a CPU without compilation, where it has no backward."""
    from torch.nn.attention.flex_attention import flex_attention

    B, T = ids[0].shape
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, heads, T, 16, generator=generator) for heads in (4, 2, 2))
    expected = attend(q, k, v, attention_mask(*ids))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sensorium.model.layers.compiled_flex_attention", lambda: flex_attention)
        given = attend(q, k, v, flex_block_mask(*ids))
    torch.testing.assert_close(given, expected, **CLOSE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's backward needs a GPU")
def test_losses_on_a_gpu_are_those_of_the_cpu() -> None:
    config = small_config(head_dim=16)
    found = []
    for device in ("cpu", "cuda"):
        model = random_model(config).to(device)
        batch = pack_documents(documents(), config, row_length=128)
        noise = noise_for(batch, config)
        on_device = {name: type(n)(n.t_N.to(device), n.e_NCHW.to(device)) for name, n in noise.items()}
        losses = compute_losses(model, batch.to(device), on_device)
        total = sum(loss.sum / loss.count.clamp_min(1) for loss in losses.values())
        total.backward()
        found.append({n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None})
        found[-1]["total"] = total.detach().cpu()
    for name, value in found[0].items():
        scale = float(value.abs().max().clamp_min(1))
        assert float((found[1][name] - value).abs().max()) < 1e-3 * scale, name


def test_groups_of_equal_lengths_have_no_padding() -> None:
    doc = torch.arange(12).repeat_interleave(torch.tensor([30] * 6 + [7] * 6))[None]
    none = torch.full_like(doc, -1)
    groups = group_documents(doc, none, none >= 0)
    assert [tuple(m.shape) for m in groups.masks] == [(6, 1, 7, 7), (6, 1, 30, 30)]


def by_one_mask(model: Sensorium, batch: Batch) -> torch.Tensor:
    """The forward pass without groups: packed rows under one mask, every position through every block."""
    noise = noise_for(batch, model.config)
    noisy = {
        name: NoisyMedia(
            add_noise(media.arrays_NCHW, noise[name], model.config.modalities[name].noise_scale),
            noise[name].t_N,
        )
        for name, media in batch.targets.items()
    }
    mask = attention_mask(batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)
    return model.trunk(model.embed(batch, noisy), batch.positions_BT3, mask, batch.is_noisy_BT)


@pytest.mark.parametrize("changes", [{}, {"experts": "ffn"}, {"qk_norm": False}], ids=str)
def test_losses_and_gradients_are_those_of_the_one_mask(
    changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the last block leaves out what no loss reads."""
    model = random_model(small_config(**changes))
    batch = pack_documents(documents(), model.config, row_length=97)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def run() -> tuple[dict[str, float], dict[str, torch.Tensor | None]]:
        losses = compute_losses(model, batch, noise_for(batch, model.config))
        total = sum(loss.sum / loss.count.clamp_min(1) for loss in losses.values())
        grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return {k: float(v.sum.detach()) for k, v in losses.items()}, dict(
            zip(parameters, grads, strict=True)
        )

    losses, grads = run()
    monkeypatch.setattr(
        Sensorium, "forward", lambda self, batch, noise, read_R, **_: by_one_mask(self, batch)
    )
    expected_losses, expected_grads = run()
    for name, value in expected_losses.items():
        assert losses[name] == pytest.approx(value, rel=1e-5), name
    for name, grad in expected_grads.items():
        assert (grads[name] is None) == (grad is None)
        if grad is not None:
            scale = float(grad.abs().max().clamp_min(1))
            assert float((grads[name] - grad).abs().max()) < 1e-5 * scale, name


@torch.no_grad()
def test_hidden_states_that_are_read_are_those_of_the_whole_and_the_others_are_zero() -> None:
    model = random_model(small_config())
    batch = pack_documents(documents(), model.config, row_length=97)
    noise = noise_for(batch, model.config)
    every, some = (model(batch, noise, read).flatten(0, 1) for read in (None, batch.read_R))
    torch.testing.assert_close(some[batch.read_R], every[batch.read_R], **CLOSE)
    others = torch.ones(len(every), dtype=torch.bool)
    others[batch.read_R] = False
    assert not some[others].any()
    assert every[others & (batch.doc_id_BT.flatten() >= 0)].any(dim=1).all()
    assert 0 < len(batch.read_R) < batch.num_tokens


def test_norm_has_the_values_and_gradients_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 7, 3, 24, generator=generator, requires_grad=True)
    weight = torch.randn(24, generator=generator, requires_grad=True)
    for shaped in (x, x.transpose(1, 2)):  # heads come transposed
        pull = torch.randn(shaped.shape, generator=generator)
        given = RMSNormFunction.apply(shaped, weight, 1e-6)
        expected = torch.nn.functional.rms_norm(shaped, (24,), weight, 1e-6)
        torch.testing.assert_close(given, expected, **CLOSE)
        grads = torch.autograd.grad(given, [x, weight], pull)
        torch.testing.assert_close(
            grads, torch.autograd.grad(expected, [x, weight], pull), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("masked", ["not", "causal", "keys"])
def test_short_attention_has_the_values_and_gradients_of_torch(masked: str) -> None:
    generator = torch.Generator().manual_seed(0)
    # Heads come transposed, and two queries share a key.
    q, k, v = (
        torch.randn(3, 7, heads, 8, generator=generator).transpose(1, 2).requires_grad_()
        for heads in (4, 2, 2)
    )
    masks = {
        "not": None,
        "causal": torch.ones(7, 7, dtype=torch.bool).tril().expand(3, 1, 7, 7),
        "keys": (torch.arange(7) < torch.tensor([7, 3, 1])[:, None])[:, None, None],
    }
    mask = masks[masked]
    given = ShortAttentionFunction.apply(q, k, v, None if mask is None else ~mask)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(given, expected, **CLOSE)
    pull = torch.randn(expected.shape, generator=generator)
    grads, wanted = (torch.autograd.grad(x, [q, k, v], pull) for x in (given, expected))
    torch.testing.assert_close(grads, wanted, atol=1e-5, rtol=1e-4)


def test_attention_has_a_backward_pass_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 6, 8, generator=generator).requires_grad_() for heads in (4, 2, 2))
    pull = torch.randn(q.shape, generator=generator)
    wanted = torch.autograd.grad(attend(q, k, v, None), [q, k, v], pull)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q, k, v, None)
    grads = torch.autograd.grad(found, [q, k, v], pull.to(found.dtype))
    torch.testing.assert_close(grads, wanted, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("rows", [0, 1, 33, 2500])
def test_a_product_in_half_precision_is_that_of_rounded_values(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Linear(24, 8)
    x = torch.randn(1, rows, 24, generator=generator, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    pull = torch.randn(found.shape, generator=generator).bfloat16()
    grads = torch.autograd.grad(found, [x, layer.weight, layer.bias], pull)
    assert found.dtype == torch.bfloat16
    assert [grad.dtype for grad in grads] == [torch.float32] * 3
    inputs = [value.detach().bfloat16().double().requires_grad_() for value in (x, layer.weight)]
    bias = layer.bias.detach().double().requires_grad_()
    expected = torch.nn.functional.linear(*inputs, bias)
    wanted = torch.autograd.grad(expected, [*inputs, bias], pull.double())
    for ours, theirs in zip((found, *grads), (expected, *wanted), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=0.02, rtol=0.02)


def test_products_in_half_precision_come_in_few_sizes() -> None:
    """Each size is compiled once, and kept."""
    sizes = {rows: len(_rounded(torch.zeros(rows, 1))) for rows in range(4000)}
    assert all(rows <= size <= rows * 17 / 16 + 31 for rows, size in sizes.items())
    assert len({size for rows, size in sizes.items() if rows >= 2000}) <= 18


def test_a_norm_of_half_precision_is_computed_in_full() -> None:
    """Under autocast heads come out of a product in bfloat16: only their own rounding may be seen in the result."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(2, 5, 3, 24, generator=generator).bfloat16()
    pull = torch.randn(half.shape, generator=generator)
    norm = RMSNorm(24, 1e-6)
    found = []
    for x in (half.clone().requires_grad_(), half.float().requires_grad_()):
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype != torch.float32):
            out = norm(x)
        grads = torch.autograd.grad(out, [x, norm.weight], pull)
        found.append((out, *grads))
    (out, grad_x, grad_weight), (wanted, wanted_x, wanted_weight) = found
    assert out.dtype == torch.float32
    assert grad_x.dtype == torch.bfloat16
    torch.testing.assert_close((out, grad_weight), (wanted, wanted_weight), atol=0.0, rtol=0.0)
    torch.testing.assert_close(grad_x, wanted_x.bfloat16(), atol=0.0, rtol=0.0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(norm(half), wanted.detach(), **CLOSE)


def test_the_backward_passes_are_the_derivatives() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, generator=generator, dtype=torch.float64, requires_grad=True)
    positions = torch.randint(0, 50, (2, 5, 3), generator=generator)
    cos, sin = (table.double() for table in rope_tables(positions, 8, 1e4))
    assert torch.autograd.gradcheck(lambda x, w: RMSNormFunction.apply(x, w, 1e-6), (x, weight))
    assert torch.autograd.gradcheck(lambda x: TurnFunction.apply(x, cos, sin), (x,))


def test_a_second_derivative_is_refused() -> None:
    """What a backward pass keeps of its forward pass counts as constant there: a second one would be wrong."""
    x = torch.randn(1, 2, 4, 8, requires_grad=True)
    tables = rope_tables(torch.arange(4)[None, :, None].expand(1, 4, 3), 8, 1e4)
    for out in (
        RMSNormFunction.apply(x, torch.ones(8), 1e-6),
        TurnFunction.apply(x, *tables),
        ShortAttentionFunction.apply(x, x, x, None),
    ):
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.square().sum().backward()


def test_turning_is_the_same_with_and_without_gradients() -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    tables = rope_tables(torch.arange(5)[None, :, None].expand(2, 5, 3), 8, 1e4)
    with torch.no_grad():
        expected = apply_rope(x, *tables)
    torch.testing.assert_close(apply_rope(x, *tables), expected, atol=1e-6, rtol=1e-6)


def test_attention_takes_a_mask_per_group_through_its_projections() -> None:
    """`Attention.forward` on groups equals itself on packed rows, read columns only."""
    config = small_config()
    torch.manual_seed(0)
    attention = Attention(config)
    doc = torch.tensor([[0] * 4 + [1] * 6 + [-1], [2] * 5 + [3] * 3 + [-1] * 3])
    block = torch.where(torch.arange(11) % 4 > 1, 0, -1).expand(2, -1)
    ids = (doc, block, block >= 0)
    x = torch.randn(2, 11, config.dim)
    positions = torch.arange(11)[None, :, None].expand(2, 11, 3)
    expected = attention(x, rope_tables(positions, config.head_dim, 1e4), attention_mask(*ids)).flatten(0, 1)
    groups = group_documents(*ids)
    read = torch.tensor([0, 5, 12, 18])
    laid = positions.flatten(0, 1)[groups.index_N][None]
    given = attention(
        x.flatten(0, 1)[groups.index_N][None],
        rope_tables(laid, config.head_dim, 1e4),
        groups,
        read_R=groups.inverse_BT.flatten()[read],
    )
    torch.testing.assert_close(given[0], expected[read], **CLOSE)
