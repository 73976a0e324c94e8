"""Layout: what stands where, which label it has, and at which position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.sequence.document import IGNORE, EmbSegment, Layout, MediaSegment, Segment, TextSegment, layout
from tests.model.small import medium

PAD, EMB = 0, 4

texts = st.builds(TextSegment, st.lists(st.integers(264, 519), min_size=1, max_size=5), st.booleans())
images = st.builds(
    lambda grid, noisy: medium("image", grid, 0, noisy=noisy),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.booleans(),
)
audios = st.builds(lambda n, noisy: medium("audio", (n, 1), 0, noisy=noisy), st.integers(1, 8), st.booleans())
segment_lists = st.lists(st.one_of(texts, images, audios, st.just(EmbSegment("a"))), min_size=1, max_size=6)


def lay(segments: list[Segment]) -> Layout:
    return layout(segments, pad_id=PAD, emb_id=EMB)


@given(segment_lists)
def test_lengths_and_media_tokens(segments: list[Segment]) -> None:
    out = lay(segments)
    assert (
        len(out) == len(out.labels_T) == len(out.positions_T3) == len(out.block_id_T) == len(out.is_noisy_T)
    )
    for number, (at, segment) in enumerate(out.media):
        span = slice(at, at + segment.grid[0] * segment.grid[1])
        # One block of its own, pad ids, all noisy or all clean, and nothing else carries its id.
        assert set(out.block_id_T[span]) == {number}
        assert (out.block_id_T == number).sum() == span.stop - span.start
        assert set(out.token_ids_T[span]) == {PAD}
        assert set(out.is_noisy_T[span]) == {segment.noisy}
    assert (out.block_id_T >= 0).sum() == sum(s.grid[0] * s.grid[1] for _, s in out.media)


@given(segment_lists)
def test_labels_are_the_next_supervised_tokens(segments: list[Segment]) -> None:
    out = lay(segments)
    wanted = [i for s in segments if isinstance(s, TextSegment) and s.supervised for i in s.token_ids]
    first = isinstance(segments[0], TextSegment) and segments[0].supervised
    assert out.labels_T[out.labels_T != IGNORE].tolist() == wanted[int(first) :]
    predicts = np.flatnonzero(out.labels_T != IGNORE)
    assert (out.token_ids_T[predicts + 1] == out.labels_T[predicts]).all()
    assert not out.is_noisy_T[predicts].any()


@given(segment_lists)
def test_positions_go_forward(segments: list[Segment]) -> None:
    out = lay(segments)
    assert (out.positions_T3[0] == 0).all()
    is_text = out.block_id_T < 0
    text_positions = out.positions_T3[is_text]
    assert (text_positions == text_positions[:, :1]).all()
    assert (np.diff(text_positions[:, 0]) > 0).all()
    # Every block lies wholly behind what comes before it and before what comes after, copies apart.
    for at, segment in out.media:
        block = out.positions_T3[at : at + segment.grid[0] * segment.grid[1]]
        before = out.positions_T3[:at][is_text[:at]]
        after = out.positions_T3[at:][is_text[at:]]
        assert not len(before) or block.min() > before.max()
        assert not len(after) or block.max() < after.min()
        assert len(np.unique(block, axis=0)) == len(block)
    assert out.end_position == out.positions_T3.max() + 1


@given(segment_lists)
def test_a_clean_copy_follows_a_noisy_block_that_is_not_last(segments: list[Segment]) -> None:
    out = lay(segments)
    media = iter(out.media)
    for index, segment in enumerate(segments):
        if not isinstance(segment, MediaSegment):
            continue
        at, found = next(media)
        assert found is segment
        if segment.noisy and index + 1 < len(segments):
            num = segment.grid[0] * segment.grid[1]
            copy_at, copy = next(media)
            assert copy_at == at + num
            assert not copy.noisy
            assert copy.array is segment.array
            assert np.array_equal(out.positions_T3[copy_at : copy_at + num], out.positions_T3[at : at + num])
            assert out.block_id_T[copy_at] != out.block_id_T[at]
    assert next(media, None) is None


def test_image_positions_are_rows_and_columns_and_audio_is_time() -> None:
    out = lay(
        [TextSegment([300, 301]), medium("image", (2, 3), 0), medium("audio", (2, 1), 0), TextSegment([302])]
    )
    image = [[2, 2, 2], [2, 2, 3], [2, 2, 4], [2, 3, 2], [2, 3, 3], [2, 3, 4]]
    assert out.positions_T3.tolist() == [[0, 0, 0], [1, 1, 1], *image, [5, 5, 5], [6, 5, 5], [7, 7, 7]]
    assert out.end_position == 8


def test_the_clean_copy_predicts_and_the_noisy_block_does_not() -> None:
    out = lay([medium("audio", (2, 1), 0, noisy=True), TextSegment([300], supervised=True)])
    assert out.labels_T.tolist() == [IGNORE, IGNORE, IGNORE, 300, IGNORE]
    assert out.is_noisy_T.tolist() == [True, True, False, False, False]


def test_emb_is_read_and_never_predicted() -> None:
    out = lay([TextSegment([300], supervised=True), EmbSegment("b"), TextSegment([301], supervised=True)])
    assert out.token_ids_T.tolist() == [300, EMB, 301]
    assert out.labels_T.tolist() == [IGNORE, 301, IGNORE]
    assert out.emb == [(1, "b")]


@pytest.mark.parametrize("segments", [[], [TextSegment([])]])
def test_an_empty_document_is_an_error(segments: list[Segment]) -> None:
    with pytest.raises(ValueError, match="document is empty; give at least one token or medium"):
        lay(segments)


def test_an_unknown_modality_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown modality 'smell'; known are audio, image"):
        lay([MediaSegment("smell", np.zeros((1, 4, 4), np.float32), (1, 1))])
