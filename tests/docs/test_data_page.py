"""docs/data.md is true: its samples train, its template works, its commands and options exist."""

import io
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sensorium.cli import main
from sensorium.commands.data import VERBS
from sensorium.media.audio import encode_wav

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "\n".join((DOCS / name).read_text(encoding="utf-8") for name in ("data.md", "starter_data.md"))


def code(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, flags=re.S | re.M)
    return [block for name, block in blocks if name == language]


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full((48, 48, 3), 255, np.uint8)
    pixels[12:36, 12:36] = shade
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def clip() -> bytes:
    buffer = io.BytesIO()
    first, *rest = [Image.open(io.BytesIO(picture(shade))) for shade in (0, 80, 160)]
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=300)
    return buffer.getvalue()


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shards that the page's example writes."""
    monkeypatch.chdir(tmp_path)
    wave = 0.2 * np.sin(np.arange(24_000) * 0.05).astype(np.float32)
    media = {"CAT": picture(40), "DOG": picture(120), "MEOW": encode_wav(wave), "CLIP": clip()}
    (example,) = (block for block in code("python") if "ShardWriter(" in block)
    exec(example, dict(media))
    return tmp_path / "data" / "mine"


def test_the_samples_of_the_page_are_clean_and_train(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(mine), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_rows"] == 7
    tasks = {
        "text-1": "text",
        "picture-1": "pair",
        "sound-1": "pair",
        "speech-1": "listen",
        "video-1": "watch",
    }
    for which in ("text-1", "picture-1", "sound-1", "speech-1", "video-1", "question-1", "edit-1"):
        template = tasks.get(which, "chat")
        assert main(["data", "show", str(mine), which, "--template", template, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert sum(d["num_predicted_tokens"] for d in shown["documents"]) > 0


def test_the_template_of_the_page_works(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = code("json")
    (mine / "mine.json").write_text(block)
    words = [
        "data",
        "show",
        str(mine),
        "picture-1",
        "--template",
        "colour",
        "--templates",
        str(mine / "mine.json"),
    ]
    assert main([*words, "--json"]) == 0
    spans = json.loads(capsys.readouterr().out)["documents"][0]["spans"]
    assert spans[-1]["what"] == "<eos>"


def test_the_python_examples_that_stand_alone_compile() -> None:
    for block in code("python"):
        compile(block, "docs/data.md", "exec")


def test_the_commands_and_options_of_the_page_exist(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in code("") for line in block.splitlines() if line.startswith("sensorium data ")]
    used = Counter(line.split()[2] for line in lines)
    assert set(used) == set(VERBS)
    for line in lines:
        _, _, verb, *words = shlex.split(line, comments=True)
        with pytest.raises(SystemExit):
            main(["data", verb, "--help"])
        help_page = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", help_page), line


def test_every_option_named_in_the_text_exists(capsys: pytest.CaptureFixture[str]) -> None:
    known = ""
    for verb in VERBS:
        with pytest.raises(SystemExit):
            main(["data", verb, "--help"])
        known += capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "nano", "--help"])
    known += capsys.readouterr().out
    for option in set(re.findall(r"`(--[a-z-]+)", PAGE)):
        assert re.search(rf"{option}\b", known), option
