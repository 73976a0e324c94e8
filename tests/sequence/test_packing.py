"""Packing: nothing lost, nothing twice, nothing over the edge."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sensorium.sequence.document import IGNORE, Document, EmbSegment, MediaSegment, TextSegment, layout
from sensorium.sequence.packing import assign_rows, pack
from tests.model.small import byte_tokenizer, documents, medium, pack_documents, small_config, text

TOKENIZER = byte_tokenizer()


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), max_size=30))))
def test_rows_hold_every_document_once(case: tuple[int, list[int]]) -> None:
    row_length, lengths = case
    rows = assign_rows(lengths, row_length)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= row_length for row in rows)
    # First fit leaves at most one row half empty or less.
    assert sum(sum(lengths[i] for i in row) * 2 <= row_length for row in rows) <= 1


def test_a_document_over_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="document 1 has 9 tokens and a row has 8; raise row_length"):
        assign_rows([3, 9], 8)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(44, 90))
def test_a_packed_document_is_its_layout(chosen: list[int], row_length: int) -> None:
    config = small_config()
    every = [documents()[i] for i in chosen]
    batch = pack(every, TOKENIZER, config, row_length=row_length)
    assert batch.token_ids_BT.shape == batch.labels_BT.shape == batch.doc_id_BT.shape
    assert batch.token_ids_BT.shape[1] == row_length
    doc_id = batch.doc_id_BT.flatten()
    last = []
    for index, document in enumerate(every):
        alone = layout(document.segments, pad_id=TOKENIZER.pad, emb_id=TOKENIZER.emb)
        where = (doc_id == index).nonzero()[:, 0]
        assert len(where) == len(alone)
        assert where[-1] - where[0] + 1 == len(where)  # in one piece
        assert where[0] // row_length == where[-1] // row_length  # in one row
        assert batch.token_ids_BT.flatten()[where].tolist() == alone.token_ids_T.tolist()
        assert batch.labels_BT.flatten()[where].tolist() == alone.labels_T.tolist()
        assert batch.positions_BT3.flatten(0, 1)[where].tolist() == alone.positions_T3.tolist()
        assert batch.is_noisy_BT.flatten()[where].tolist() == alone.is_noisy_T.tolist()
        last.append(int(where[-1]))
    assert batch.last_D.tolist() == last
    assert batch.num_tokens == int((doc_id >= 0).sum())
    assert (batch.labels_BT.flatten()[doc_id < 0] == IGNORE).all()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=10))
def test_media_tokens_equal_patches_and_stand_in_their_blocks(chosen: list[int]) -> None:
    config = small_config()
    every = [documents()[i] for i in chosen]
    batch = pack_documents(every, config, row_length=64)
    in_blocks = set((batch.block_id_BT.flatten() >= 0).nonzero()[:, 0].tolist())
    noisy = batch.is_noisy_BT.flatten()
    seen: list[int] = []
    for kind, media_of in (("context", batch.context), ("targets", batch.targets)):
        for name, media in media_of.items():
            patch = config.modalities[name].patch
            assert len(media.token_index_P) == int(media.num_patches_N.sum())
            assert (noisy[media.token_index_P] == (kind == "targets")).all()
            seen += media.token_index_P.tolist()
            for array, (rows, cols) in zip(media.arrays_NCHW, media.grids_N2.tolist(), strict=True):
                assert array[:, rows * patch[0] :].abs().sum() == 0
                assert array[:, :, cols * patch[1] :].abs().sum() == 0
    assert len(seen) == len(set(seen))
    assert set(seen) == in_blocks


def test_pairs_join_both_sides_and_groups_are_positives() -> None:
    def pair(key: str, *groups: str) -> list[Document]:
        return [
            Document([medium("image", (1, 1), 0), EmbSegment("a")], pair_key=key, group_keys=groups),
            Document([text(key), EmbSegment("b")], pair_key=key, group_keys=groups),
        ]

    half = Document([text("no other side"), EmbSegment("a")], pair_key="half")
    dropped = Document([text("dropped"), EmbSegment("")], pair_key="p")
    none = Document([text("no pair"), EmbSegment("a")])
    every = [*pair("p", "t:x", "c:1"), half, *pair("q", "c:2"), dropped, *pair("r", "c:1"), none, *pair("s")]
    batch = pack_documents(every, small_config(), row_length=40)
    assert batch.positives_MM.tolist() == [
        [True, False, True, False],
        [False, True, False, False],
        [True, False, True, False],
        [False, False, False, True],
    ]
    doc_id = batch.doc_id_BT.flatten()
    assert doc_id[batch.emb_a_M].tolist() == [0, 3, 6, 9]
    assert doc_id[batch.emb_b_M].tolist() == [1, 4, 7, 10]
    assert (batch.token_ids_BT.flatten()[torch.cat([batch.emb_a_M, batch.emb_b_M])] == TOKENIZER.emb).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 8, 16), (1, 8, 12)])
def test_an_array_that_does_not_fill_its_grid_is_an_error(shape: tuple[int, ...]) -> None:
    segment = MediaSegment("image", np.zeros(shape, np.float32), (2, 3))
    with pytest.raises(ValueError, match=r"image array of shape .* grid \(2, 3\).*needs \(3, 8, 12\)"):
        pack([Document([segment])], TOKENIZER, small_config(), row_length=16)


def test_a_modality_that_the_model_lacks_is_an_error() -> None:
    config = small_config()
    config.modalities.pop("audio")
    with pytest.raises(ValueError, match="the model has no modality 'audio'; it knows image"):
        pack([Document([medium("audio", (2, 1), 0)])], TOKENIZER, config, row_length=16)


def test_nothing_to_pack_is_an_error() -> None:
    with pytest.raises(ValueError, match="no documents"):
        pack([], TOKENIZER, small_config(), row_length=16)


def test_a_batch_can_move() -> None:
    batch = pack_documents(documents(), small_config()).to("meta")
    assert batch.token_ids_BT.device.type == "meta"
    assert batch.context["image"].arrays_NCHW.device.type == "meta"
    assert batch.sample_ids == [d.sample_id for d in documents()]


def test_text_that_is_only_control_tokens_is_a_document() -> None:
    batch = pack([Document([TextSegment([TOKENIZER.eos])])], TOKENIZER, small_config(), row_length=4)
    assert batch.doc_id_BT.tolist() == [[0, -1, -1, -1]]
