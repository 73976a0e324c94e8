"""A document gives the same in every packing, alone or in company, and with either stem, target or expert."""

import numpy as np
import pytest
import torch

from sensorium.losses import compute_losses
from sensorium.model.encoders import patchify, unpatchify
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.packing import MediaBatch
from tests.model.small import (
    documents,
    medium,
    noise_for,
    pack_documents,
    predictions,
    random_model,
    rows_of,
    small_config,
)

VARIANTS = [
    {},
    {"stem": "linear", "copies_source": False},
    {"experts": "ffn"},
    {"refiner": False, "target": "v"},
    {"qk_norm": False, "tie_embeddings": False},
]
CLOSE = {"atol": 3e-5, "rtol": 1e-4}


@pytest.fixture(params=VARIANTS, ids=str)
def model(request: pytest.FixtureRequest) -> Sensorium:
    return random_model(small_config(**request.param))


@torch.no_grad()
def test_packed_equals_unpacked(model: Sensorium) -> None:
    every = documents()
    packed = pack_documents(every, model.config, row_length=97)
    assert len(packed.doc_id_BT) < len(every)  # documents do share rows
    hidden = model(packed, noise_for(packed, model.config)).flatten(0, 1)
    made = predictions(model, hidden[None], packed)
    for index, document in enumerate(every):
        alone = pack_documents([document], model.config)
        own = model(alone, noise_for(alone, model.config))
        torch.testing.assert_close(hidden[rows_of(packed, index)], own[0], **CLOSE)
        for name, arrays in predictions(model, own, alone).items():
            for array in arrays:
                assert (
                    min(
                        float((array - other).abs().max())
                        for other in made[name]
                        if other.shape == array.shape
                    )
                    < 3e-5
                )


@torch.no_grad()
def test_the_order_of_documents_does_not_matter(model: Sensorium) -> None:
    every = documents()
    hidden = {}
    for order in (list(range(7)), [3, 6, 0, 5, 2, 4, 1]):
        batch = pack_documents([every[i] for i in order], model.config, row_length=64)
        out = model(batch, noise_for(batch, model.config)).flatten(0, 1)
        hidden[order[0]] = {i: out[rows_of(batch, n)] for n, i in enumerate(order)}
    for i in range(7):
        torch.testing.assert_close(hidden[0][i], hidden[3][i], **CLOSE)


@torch.no_grad()
def test_losses_of_packed_documents_are_the_sums_of_their_own(model: Sensorium) -> None:
    every = documents()
    packed = pack_documents(every, model.config, row_length=80)
    together = compute_losses(model, packed, noise_for(packed, model.config))
    apart = []
    for document in every:
        batch = pack_documents([document], model.config)
        apart.append(compute_losses(model, batch, noise_for(batch, model.config)))
    for name in ("text", "z", "flow_image", "flow_audio"):
        total = sum(losses[name].sum for losses in apart)
        torch.testing.assert_close(together[name].sum, torch.as_tensor(total), atol=1e-2, rtol=1e-4)
        assert float(together[name].count) == sum(float(losses[name].count) for losses in apart) > 0


@pytest.mark.parametrize("modality", ["image", "audio"])
@torch.no_grad()
def test_encoder_gives_a_ragged_batch_what_it_gives_each_alone(model: Sensorium, modality: str) -> None:
    grids = [(2, 3), (4, 4), (1, 1), (4, 1), (1, 4)] if modality == "image" else [(1, 1), (8, 1), (3, 1)]
    items = [medium(modality, grid, n) for n, grid in enumerate(grids)]
    arrays = np.zeros(
        (len(items), *(max(sizes) for sizes in zip(*(i.array.shape for i in items), strict=True))), np.float32
    )
    for n, item in enumerate(items):
        arrays[n, :, : item.array.shape[1], : item.array.shape[2]] = item.array
    num = torch.tensor([h * w for h, w in grids])
    batch = MediaBatch(torch.from_numpy(arrays), torch.tensor(grids), torch.arange(int(num.sum())))
    patch = model.config.modalities[modality].patch
    assert batch.is_ragged(patch)
    features = model.encoders[modality](batch).split(num.tolist())
    for item, found in zip(items, features, strict=True):
        alone = MediaBatch(
            torch.from_numpy(item.array)[None], torch.tensor([item.grid]), torch.arange(len(found))
        )
        assert not alone.is_ragged(patch)
        torch.testing.assert_close(found, model.encoders[modality](alone), **CLOSE)


@torch.no_grad()
def test_what_lies_in_the_padding_of_media_does_not_matter(model: Sensorium) -> None:
    """The arrays hold zeros there; noise is drawn there too and must have no effect."""
    batch = pack_documents(documents(), model.config, row_length=64)
    noise = noise_for(batch, model.config)
    before = model(batch, noise)
    for name, media in batch.targets.items():
        patch = model.config.modalities[name].patch
        for n, (rows, cols) in enumerate(media.grids_N2.tolist()):
            noise[name].e_NCHW[n, :, rows * patch[0] :] = 100.0
            noise[name].e_NCHW[n, :, :, cols * patch[1] :] = -100.0
    after = model(batch, noise)
    torch.testing.assert_close(before, after)
    for name in batch.targets:
        for a, b in zip(
            predictions(model, before, batch)[name], predictions(model, after, batch)[name], strict=True
        ):
            torch.testing.assert_close(a, b)


def test_patches_go_back_where_they_came_from() -> None:
    from sensorium.media.modality import patchify as numpy_patchify

    x = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    cut = patchify(x, (4, 3))
    assert torch.equal(unpatchify(cut, (2, 4), (4, 3)), x)
    patches, grid = numpy_patchify(x[1].numpy(), (4, 3))
    assert grid == (2, 4)
    assert np.array_equal(patches, cut[1].numpy())
    assert torch.equal(cut[0, 1], x[0, :, :4, 3:6].reshape(-1))  # row order: the second patch is to the right


@pytest.mark.parametrize("patch", [(1, 1), (2, 2), (6, 6), (5, 5), (7, 14), (8, 8)])
@torch.no_grad()
def test_the_conv_stem_gives_one_feature_a_patch(patch: tuple[int, int]) -> None:
    import dataclasses

    config = small_config()
    changed = dataclasses.replace(
        config.modalities["image"], patch=patch, max_size=(patch[0] * 3, patch[1] * 3)
    )
    try:
        model = random_model(dataclasses.replace(config, modalities={"image": changed}))
    except ValueError as error:
        assert patch == (7, 14)
        assert "use stem='linear'" in str(error)  # noqa: PT017
        return
    media = MediaBatch(torch.randn(1, 3, patch[0] * 2, patch[1] * 3), torch.tensor([[2, 3]]), torch.arange(6))
    assert model.encoders["image"](media).shape == (6, 32)
