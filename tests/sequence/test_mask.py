"""The attention rule: against a naive loop over its sentence, and its three forms against each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask, flex_attention

from sensorium.sequence.mask import attention_mask, flex_block_mask, flex_rule


def naive_mask(doc: list[int], block: list[int], noisy: list[bool]) -> torch.Tensor:
    """The sentence of the design, read aloud for one row."""
    T = len(doc)
    mask = torch.zeros(T, T, dtype=torch.bool)
    for q in range(T):
        for k in range(T):
            if doc[q] < 0:
                mask[q, k] = q == k
                continue
            same_document = doc[q] == doc[k]
            same_block = block[q] >= 0 and block[q] == block[k]
            mask[q, k] = same_document and (k <= q or same_block) and (not noisy[k] or same_block)
    return mask


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], list[int], list[bool]]:
    """Documents of text runs and blocks, clean or noisy, then padding."""
    doc: list[int] = []
    block: list[int] = []
    noisy: list[bool] = []
    for index in range(draw(st.integers(1, 3))):
        for number in range(draw(st.integers(1, 4))):
            length, is_block = draw(st.integers(1, 4)), draw(st.booleans())
            is_noisy = is_block and draw(st.booleans())
            doc += [index] * length
            block += [number if is_block else -1] * length
            noisy += [is_noisy] * length
    padding = draw(st.integers(0, 3))
    return doc + [-1] * padding, block + [-1] * padding, noisy + [False] * padding


def tensors(row: tuple[list[int], list[int], list[bool]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.tensor([row[0]]), torch.tensor([row[1]]), torch.tensor([row[2]])


@given(rows())
def test_boolean_mask_is_the_rule(row: tuple[list[int], list[int], list[bool]]) -> None:
    assert torch.equal(attention_mask(*tensors(row))[0, 0], naive_mask(*row))


@given(rows())
def test_flex_rule_is_the_boolean_mask(row: tuple[list[int], list[int], list[bool]]) -> None:
    T = len(row[0])
    dense = create_mask(flex_rule(*tensors(row)), 1, 1, T, T, device="cpu")
    assert torch.equal(dense, attention_mask(*tensors(row)))


@given(rows())
def test_every_query_sees_itself(row: tuple[list[int], list[int], list[bool]]) -> None:
    """No row of the softmax is empty, so no NaN."""
    assert attention_mask(*tensors(row))[0, 0].diagonal().all()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_what_sdpa_gives() -> None:
    T = 256
    generator = torch.Generator().manual_seed(0)
    doc = torch.arange(T)[None].expand(2, -1) // 90
    doc = torch.where(torch.arange(T) < 250, doc, -1)
    block = torch.where((torch.arange(T) % 30 > 12) & (doc >= 0), torch.arange(T) // 30, -1)
    noisy = (block >= 0) & (block % 2 == 0)
    q, k, v = torch.randn(3, 2, 2, T, 16, generator=generator).unbind(0)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=attention_mask(doc, block, noisy)
    )
    with torch.no_grad():
        given = flex_attention(q, k, v, block_mask=flex_block_mask(doc, block, noisy))
    torch.testing.assert_close(given, expected, atol=2e-6, rtol=1e-5)
