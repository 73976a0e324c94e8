"""docs/sound.md is true: its code runs, its commands and options exist, its templates too."""

import re
import shlex
from pathlib import Path

import pytest

from sensorium.cli import main
from sensorium.data.templates import built_in
from sensorium.media.audio import encode_wav
from sensorium.model.vocoder import Vocoder, VocoderConfig
from sensorium.pretrained.vocos import save_vocoder
from tests.generate.small_model import small_model
from tests.media.clips import clip, tone

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sound.md").read_text(encoding="utf-8")


def code(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, flags=re.S | re.M)
    return [block for name, block in blocks if name == language]


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    small_model().save_pretrained("runs/tiny")
    Path("runs/vocoder").mkdir()
    vocoder = Vocoder(VocoderConfig(dim=8, mlp_dim=8, num_layers=1))
    save_vocoder(Path("runs/vocoder/vocoder.safetensors"), vocoder)
    Path("memo.wav").write_bytes(encode_wav(tone(rate=24_000)))
    Path("clip.mp4").write_bytes(clip())


@pytest.mark.usefixtures("_here")
def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in code("python"):
        exec(block, names)
    assert Path("rain.wav").stat().st_size > 40_000
    assert "0.0 to 1.0 s: " in capsys.readouterr().out


@pytest.mark.usefixtures("_here")
def test_the_commands_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in code("") for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)[1:]
        if words[:2] == ["train", "vocoder"]:
            words[words.index("--out") + 1] = "runs/other"
            words += ["--num-steps", "1", "--batch-size", "1", "--data", "starter:sonic-pi"]
        else:
            words += ["--model", "runs/tiny"]
        assert main(words) == 0, line
    assert "audio.wav" in capsys.readouterr().out
    for verb in (["generate"], ["train", "vocoder"]):
        with pytest.raises(SystemExit):
            main([*verb, "--help"])
    options = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert options <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out)), options


def test_the_templates_of_the_page_exist() -> None:
    for name in ("pair", "speak", "speak-on", "listen", "watch", "watch-timed"):
        assert f"`{name}`" in PAGE
        assert name in built_in()
