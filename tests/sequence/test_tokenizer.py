from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sensorium.sequence.tokenizer import CONTROL, NUM_SIZES, Tokenizer

BYTES = Tokenizer.bytes()
LEARNED = Tokenizer.train(
    ["a red car", "ein rotes Auto", "une voiture rouge", "красная машина", "<image> <eos> <eos>"] * 8,
    vocab_size=600,
)
EVERY = [*CONTROL, "<image>", "<audio>", "<0>", "<255>"]


@pytest.mark.parametrize("tokenizer", [BYTES, LEARNED], ids=["bytes", "learned"])
@given(text=st.text())
@example(text="\x00 \ufffd \u200d 👩‍👩‍👧 日本語 \r\n")
@example(text="  two  spaces ")
@example(text="".join(EVERY))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("tokenizer", [BYTES, LEARNED], ids=["bytes", "learned"])
@given(st.lists(st.one_of(st.sampled_from(EVERY), st.text(max_size=5)), max_size=6).map("".join))
def test_nobody_can_type_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    assert all(i >= tokenizer.size_base + NUM_SIZES for i in tokenizer.encode(text))


def test_nobody_can_type_a_control_token_after_saving(tmp_path: Path) -> None:
    LEARNED.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    for token in EVERY:
        assert again.encode(token) == LEARNED.encode(token)
        assert again.id_of(token) < again.size_base + NUM_SIZES <= min(again.encode(token))


def test_bytes_have_no_merges_and_learned_ones_are_shorter() -> None:
    assert len(BYTES.encode("é")) == 2
    assert BYTES.vocab_size == len(CONTROL) + 2 + NUM_SIZES + 256 == 520
    assert len(LEARNED.encode("ein rotes Auto")) < len(BYTES.encode("ein rotes Auto"))


def test_control_tokens_are_left_out_of_text() -> None:
    ids = [
        BYTES.user,
        *BYTES.encode("a"),
        BYTES.open_token("image"),
        BYTES.size_token(4),
        *BYTES.encode("b"),
        BYTES.eos,
    ]
    assert BYTES.decode(ids) == "ab"


def test_broken_utf8_becomes_the_replacement_character() -> None:
    assert BYTES.decode([*BYTES.encode("a"), *BYTES.encode("é")[:1], *BYTES.encode("b")]) == "a\ufffdb"


@pytest.mark.parametrize("size", [-1, 256])
def test_a_size_out_of_range_is_an_error(size: int) -> None:
    with pytest.raises(ValueError, match=f"size {size} patches.*0 to 255"):
        BYTES.size_token(size)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*nothing\.json.*starter-4k"):
        Tokenizer.load(tmp_path / "nothing.json")


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"version": "1.0", "trunc')
    with pytest.raises(ValueError, match=r"tokenizer\.json.*damaged"):
        Tokenizer.load(path)


def test_a_tokenizer_that_changed_on_the_disk_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    BYTES.save(path)
    assert Tokenizer.load(path).vocab_size == BYTES.vocab_size
    LEARNED.save(path)
    assert Tokenizer.load(path).vocab_size == LEARNED.vocab_size


def test_an_unknown_control_token_is_named() -> None:
    with pytest.raises(ValueError, match="no <smell> token"):
        BYTES.open_token("smell")
