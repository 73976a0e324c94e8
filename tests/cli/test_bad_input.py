"""Bad input through the door: one clear sentence that names the thing and the mend, and exit code 2."""

import json
import shutil
import zlib
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, Run, assert_mistake


def huge_png(side: int) -> bytes:
    """A whole and valid black picture of ``side`` x ``side`` pixels, one bit each, in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    packer = zlib.compressobj(1)
    row = bytes(1 + (side + 7) // 8)
    pixels = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_truncated_png(command: Run, picture: Path) -> None:
    data = picture.read_bytes()
    picture.write_bytes(data[: len(data) // 2])
    assert_mistake(command("generate", picture, "what is this?"), str(picture), "truncated", "PNG", "again")


def test_zero_byte_wav(command: Run, tmp_path: Path) -> None:
    (tmp_path / "memo.wav").write_bytes(b"")
    assert_mistake(command("generate", "memo.wav", "transcribe"), "memo.wav", "empty (0 bytes)", "again")


def test_text_file_named_jpg(command: Run, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_text("This is a cat.\n")
    assert_mistake(command("generate", "cat.jpg"), "cat.jpg", "a text file", "convert it")


def test_enormous_picture(command: Run, tmp_path: Path) -> None:
    (tmp_path / "wall.png").write_bytes(huge_png(20_000))
    assert_mistake(command("generate", "wall.png"), "wall.png", "20,000 x 20,000 pixels", "smaller")


@pytest.mark.parametrize("words", [(), ("",), ("  \n",), ("text:",)])
def test_empty_prompt(command: Run, words: tuple[str, ...]) -> None:
    assert_mistake(command("generate", *words), "the prompt is empty", "give some text")


def test_empty_standard_input(command: Run) -> None:
    assert_mistake(command("generate", "-"), "the prompt is empty")


def test_mistyped_file_is_not_taken_for_words(command: Run) -> None:
    assert_mistake(command("generate", "phto.png", "what?"), "phto.png", "no such file", "text:")
    assert_mistake(command("generate", "@notes"), "notes", "no such file")


def test_unknown_suffix(command: Run, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"1")
    assert_mistake(command("generate", "@a.xyz"), "a.xyz", "'.xyz'", ".png")


def test_unknown_configuration_key_on_the_command_line(command: Run, tmp_path: Path) -> None:
    done = command("train", "nano", "--out", "run", "--train.lrr", "1e-3")
    assert_mistake(done, "--train.lrr", "--train.lr")
    assert not (tmp_path / "run").exists()


def test_unknown_configuration_key_in_a_file(command: Run, model_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    config["model"]["num_layrs"] = 2
    (copy / "config.json").write_text(json.dumps(config))
    assert_mistake(command("info", copy), "config.json", "'model.num_layrs'", "'model.num_layers'")


def test_checkpoint_with_a_missing_tensor(
    command: Run, here: Run, model_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(model_folder, tmp_path / "model")
    tensors = load_file(copy / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors")
    for done in (command("generate", "hi", "--model", copy), here("info", copy)):
        assert_mistake(done, "model.safetensors", "'layers.1.mlp.up_proj.weight'", "another copy")


def test_model_that_is_not_there(command: Run) -> None:
    assert_mistake(command("info", "nowhere"), "nowhere", "nano")


def test_answer_that_cannot_be_saved_is_told_before_the_work(command: Run, tmp_path: Path) -> None:
    assert_mistake(command("generate", "hi", "--out", "no/cat.png"), "no", "make it first")
    assert_mistake(command("generate", "hi", "--out", "cat.gif"), "cat.gif", ".png")
    assert_mistake(command("generate", "hi", "--out", "cat.png", "--output", "audio"), "cat.png", "agree")
    assert_mistake(command("embed", "hi", "--out", "cat.txt"), "cat.txt", ".npy")


def test_train_mistakes(command: Run, tmp_path: Path) -> None:
    assert_mistake(command("train"), "nano", "--resume")
    assert_mistake(command("train", "nan", "--out", "run"), "nan", "nano")
    assert_mistake(command("train", "nano"), "--out")
    assert_mistake(command("train", "nano", "--out", "run", "--model.num-heads", "3"), "num_heads 3")
    assert_mistake(command("train", "nano", "--out", "run", "--train.lr", "fast"), "--train.lr", "'fast'")
    assert_mistake(command("train", "nano", "--out", "run", "--data", "a=pear"), "'pear'", "pair")
    assert list(tmp_path.iterdir()) == []


def test_train_on_data_that_are_not_there(here: Run) -> None:
    assert_mistake(here("train", "nano", "--out", "run", *TINY, "--data", "no.parquet"), "no.parquet")
    assert_mistake(
        here("train", "small", "--out", "run", *TINY, "--data.samples-per-step", "40"),
        "sensorium data build starter --out data/starter",
    )
