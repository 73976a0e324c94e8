"""Leaks, by gradient: who can learn anything from whom. Each search is shown to find a leak that is there."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from sensorium.model.flow import Noise, add_noise
from sensorium.model.sensorium import NoisyMedia, Sensorium
from sensorium.sequence.document import Document, EmbSegment
from sensorium.sequence.mask import attention_mask
from sensorium.sequence.packing import Batch
from tests.model.small import (
    documents,
    medium,
    noise_for,
    pack_documents,
    random_model,
    rows_of,
    shape_text,
    small_config,
    text,
)
from tests.sequence.test_mask import naive_mask

MODEL = random_model(small_config())
MIXTURE = random_model(small_config(experts="ffn"))


def the_rule(batch: Batch) -> Tensor:
    return attention_mask(batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)


def plain_causal(batch: Batch) -> Tensor:
    """What a careless implementation has: everything earlier in the row is seen."""
    T = batch.doc_id_BT.shape[1]
    return torch.ones(T, T, dtype=torch.bool).tril()[None, None].expand(len(batch.doc_id_BT), 1, T, T)


def everything(batch: Batch) -> Tensor:
    """Worse: everything in the row is seen."""
    return torch.ones_like(plain_causal(batch))


def dependence(model: Sensorium, batch: Batch, mask: Tensor) -> Tensor:
    """Bool ``[B*T, B*T]``: does the hidden state of the row depend on the embeds of the column?"""
    noise = noise_for(batch, model.config)
    with torch.no_grad():
        noisy = {
            name: NoisyMedia(add_noise(media.arrays_NCHW, noise[name], 1.0), noise[name].t_N)
            for name, media in batch.targets.items()
        }
        x_BTD = model.embed(batch, noisy)
    x_BTD.requires_grad_()
    hidden = model.trunk(x_BTD, batch.positions_BT3, mask, batch.is_noisy_BT).flatten(0, 1)
    weights = torch.randn(hidden.shape[1], generator=torch.Generator().manual_seed(0))
    rows = []
    for number in range(len(hidden)):
        (gradient,) = torch.autograd.grad((hidden[number] * weights).sum(), x_BTD, retain_graph=True)
        rows.append(gradient.flatten(0, 1).abs().sum(dim=1) > 0)
    return torch.stack(rows)


def edit_document() -> tuple[Document, dict[str, range]]:
    """Every kind of segment in one document, and where each part stands."""
    drawn, sung = medium("image", (2, 2), 1, noisy=True), medium("audio", (3, 1), 2, noisy=True)
    segments = [
        text("ab"), medium("image", (2, 3), 0), EmbSegment("a"), shape_text(drawn), drawn,
        text("cd", supervised=True), shape_text(sung), sung, text("e", supervised=True),
    ]  # fmt: skip
    names = ["words", "seen", "emb", "shape", "noisy", "copy", "after", "shape2", "noisy2", "copy2", "end"]
    lengths = [2, 6, 1, 3, 4, 4, 2, 2, 3, 3, 1]
    parts, at = {}, 0
    for name, length in zip(names, lengths, strict=True):
        parts[name] = range(at, at + length)
        at += length
    return Document(segments), parts


def depends(found: Tensor, of: Iterable[int], on: Iterable[int]) -> bool:
    return bool(found[list(of)][:, list(on)].any())


@pytest.mark.parametrize("model", [MODEL, MIXTURE], ids=["none", "ffn"])
def test_dependence_is_the_rule_and_nothing_else(model: Sensorium) -> None:
    """Through two layers and both feed-forwards: the pairs that the sentence allows, no more, no fewer."""
    document, parts = edit_document()
    batch = pack_documents([document, document], model.config, row_length=2 * parts["end"].stop + 3)
    found = dependence(model, batch, the_rule(batch))
    rows = (batch.doc_id_BT[0].tolist(), batch.block_id_BT[0].tolist(), batch.is_noisy_BT[0].tolist())
    assert torch.equal(found, naive_mask(*rows))


FORBIDDEN = [
    ("after", "noisy", "text after a picture sees its noise"),
    ("end", "noisy", "later text sees the noise of an earlier block"),
    ("end", "noisy2", "text sees the noise of a sound"),
    ("noisy2", "noisy", "one noisy block sees the noise of another"),
    ("copy", "noisy", "the clean copy sees the noise"),
    ("copy2", "noisy", "a later clean copy sees the noise"),
    ("noisy", "copy", "a noisy block sees its own clean copy"),
    ("noisy2", "copy2", "a noisy sound sees its own clean copy"),
    ("noisy", "after", "a noisy block sees what follows"),
    ("words", "seen", "text sees a later picture"),
    ("emb", "shape", "<emb> sees what follows it"),
    ("emb", "noisy", "<emb> sees what is drawn from it"),
    ("emb", "copy", "<emb> sees the clean copy of what is drawn from it"),
]


@pytest.mark.parametrize(("of", "on", "leak"), FORBIDDEN, ids=[case[2] for case in FORBIDDEN])
def test_no_leak(of: str, on: str, leak: str) -> None:
    document, parts = edit_document()
    batch = pack_documents([document], MODEL.config)
    assert not depends(dependence(MODEL, batch, the_rule(batch)), parts[of], parts[on]), leak
    careless = plain_causal(batch) if parts[of].start > parts[on].start else everything(batch)
    found = dependence(MODEL, batch, careless)
    assert depends(found, parts[of], parts[on]), "this search finds nothing"


WANTED = [
    ("noisy", "words"), ("noisy", "seen"), ("noisy", "shape"), ("noisy", "noisy"), ("copy", "seen"),
    ("after", "copy"),
    ("after", "seen"), ("noisy2", "copy"), ("noisy2", "after"), ("end", "copy2"), ("emb", "seen"),
]  # fmt: skip


@pytest.mark.parametrize(("of", "on"), WANTED)
def test_what_must_be_seen_is_seen(of: str, on: str) -> None:
    document, parts = edit_document()
    batch = pack_documents([document], MODEL.config)
    found = dependence(MODEL, batch, the_rule(batch))
    assert found[list(parts[of])][:, list(parts[on])].all()


def test_blocks_are_bidirectional_inside_and_text_is_causal() -> None:
    document, parts = edit_document()
    batch = pack_documents([document], MODEL.config)
    found = dependence(MODEL, batch, the_rule(batch))
    for name in ("seen", "noisy", "copy", "noisy2", "copy2"):
        assert found[list(parts[name])][:, list(parts[name])].all()
    is_text = batch.block_id_BT[0] < 0
    assert not found[is_text][:, is_text].triu(1).any()


def test_the_clean_copy_stands_at_the_positions_of_its_block() -> None:
    document, parts = edit_document()
    batch = pack_documents([document], MODEL.config)
    for noisy, copy in (("noisy", "copy"), ("noisy2", "copy2")):
        positions = batch.positions_BT3[0]
        assert torch.equal(positions[list(parts[noisy])], positions[list(parts[copy])])


def input_gradients(batch: Batch, of: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Gradients of hidden states at flat positions with respect to clean arrays and noise of a batch."""
    noise = noise_for(batch, MODEL.config)
    leaves: dict[str, Tensor] = {}
    for name, media in batch.context.items():
        leaves[f"context {name}"] = media.arrays_NCHW.requires_grad_()
    for name, item in noise.items():
        leaves[f"noise {name}"] = item.e_NCHW.requires_grad_()
        leaves[f"level {name}"] = item.t_N.requires_grad_()
    noisy = {
        name: NoisyMedia(
            add_noise(m.arrays_NCHW, Noise(noise[name].t_N, noise[name].e_NCHW), 1.0), noise[name].t_N
        )
        for name, m in batch.targets.items()
    }
    hidden = MODEL.trunk(MODEL.embed(batch, noisy), batch.positions_BT3, mask, batch.is_noisy_BT)
    weights = torch.randn(hidden.shape[2], generator=torch.Generator().manual_seed(0))
    out = (hidden.flatten(0, 1)[of] * weights).sum()
    gradients = torch.autograd.grad(out, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if g is None else g
        for (name, leaf), g in zip(leaves.items(), gradients, strict=True)
    }


def item_documents(batch: Batch, media_of: str, name: str) -> list[int]:
    """Which document each medium of a batch stands in."""
    media = getattr(batch, media_of)[name]
    first = torch.cat([torch.zeros(1, dtype=torch.int64), media.num_patches_N.cumsum(0)[:-1]])
    return batch.doc_id_BT.flatten()[media.token_index_P[first]].tolist()  # type: ignore[no-any-return]


def test_one_document_never_depends_on_another() -> None:
    """From the arrays on: through encoders that batch ragged media, stems, shared rows, padding."""
    every = documents()
    batch = pack_documents(every, MODEL.config, row_length=100)
    assert len(batch.doc_id_BT) < 4
    leaked = False
    for index in range(len(every)):
        own = input_gradients(batch, rows_of(batch, index), the_rule(batch))
        careless = input_gradients(batch, rows_of(batch, index), everything(batch))
        for key, gradient in own.items():
            kind, name = key.split()
            owners = item_documents(batch, "context" if kind == "context" else "targets", name)
            for n, owner in enumerate(owners):
                assert bool(gradient[n].abs().sum() > 0) == (owner == index), (index, key, n)
                leaked |= owner != index and bool(careless[key][n].abs().sum() > 0)
    assert leaked, "this search finds nothing"


def test_media_do_not_depend_on_their_padding() -> None:
    batch = pack_documents(documents(), MODEL.config, row_length=100)
    gradients = input_gradients(batch, torch.arange(batch.doc_id_BT.numel()), the_rule(batch))
    for key, gradient in gradients.items():
        kind, name = key.split()
        if kind == "level":
            continue
        media = getattr(batch, "context" if kind == "context" else "targets")[name]
        patch = MODEL.config.modalities[name].patch
        for n, (rows, cols) in enumerate(media.grids_N2.tolist()):
            assert gradient[n, :, : rows * patch[0], : cols * patch[1]].abs().amin() > 0
            assert gradient[n, :, rows * patch[0] :].abs().sum() == 0
            assert gradient[n, :, :, cols * patch[1] :].abs().sum() == 0


def test_padding_of_rows_never_matters() -> None:
    document, parts = edit_document()
    tight = pack_documents([document], MODEL.config)
    length = parts["end"].stop
    wide = pack_documents([document], MODEL.config, row_length=length + 9)
    with torch.no_grad():
        a = MODEL(tight, noise_for(tight, MODEL.config))
        b = MODEL(wide, noise_for(wide, MODEL.config))
    torch.testing.assert_close(a[0], b[0, :length], atol=2e-5, rtol=1e-4)
    found = dependence(MODEL, wide, the_rule(wide))
    assert not found[:length, length:].any()
    assert not found[length:, :length].any()


def test_each_side_of_a_pair_embeds_itself_only() -> None:
    """<emb> of the medium has not seen the words, and <emb> of the words has not seen the medium."""
    every = documents()[:4]
    batch = pack_documents(every, MODEL.config, row_length=100)
    for position in batch.emb_a_M:
        gradients = input_gradients(batch, position[None], the_rule(batch))
        assert sum(float(g.abs().sum()) for key, g in gradients.items() if not key.startswith("context")) == 0
        assert sum(float(g.abs().sum()) for key, g in gradients.items() if key.startswith("context")) > 0
    for position in batch.emb_b_M:
        gradients = input_gradients(batch, position[None], the_rule(batch))
        assert sum(float(g.abs().sum()) for g in gradients.values()) == 0
        careless = input_gradients(batch, position[None], everything(batch))
        assert sum(float(g.abs().sum()) for g in careless.values()) > 0
    found = dependence(MODEL, batch, the_rule(batch))
    doc_id, labels = batch.doc_id_BT.flatten(), batch.labels_BT.flatten()
    for position in [*batch.emb_a_M.tolist(), *batch.emb_b_M.tolist()]:
        seen = found[position].nonzero()[:, 0]
        assert (doc_id[seen] == doc_id[position]).all()
        assert seen.max() == position
        assert (labels[seen[:-1]] == -100).all()  # what it is to predict lies behind it


def test_the_loss_of_text_does_not_depend_on_noise() -> None:
    """End to end, through the loss: other noise, the same text loss to the bit, and another flow loss."""
    from sensorium.losses import compute_losses

    batch = pack_documents(documents(), MODEL.config, row_length=100)
    losses = [compute_losses(MODEL, batch, noise_for(batch, MODEL.config, seed)) for seed in (0, 1)]
    assert torch.equal(losses[0]["text"].sum, losses[1]["text"].sum)
    assert torch.equal(losses[0]["align"].sum, losses[1]["align"].sum)
    assert not torch.equal(losses[0]["flow_image"].sum, losses[1]["flow_image"].sum)
