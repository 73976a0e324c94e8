"""docs/finetuning.md: its commands and its code run, and what it names is there."""

import re
import shlex
from pathlib import Path

import pytest

from sensorium.cli import main
from sensorium.commands.finetune import Finetune
from tests.finetune.conftest import write_photos

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")


def code(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.S)
    return str(found)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's mugs, in another format than it says."""
    folder = write_photos(tmp_path / "photos", num=2)
    (folder / "poppy").rename(folder / "mug")
    (folder / "mug" / "1.png").rename(folder / "mug" / "1.jpg")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.slow
def test_the_commands_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in code("bash").splitlines():
        words = shlex.split(line)[1:]
        # Fewer steps than a user would take: that they help is tested elsewhere.
        words += (
            ["--steps", "4", "--replay", "0"] if words[0] == "finetune" and "--steps" not in words else []
        )
        assert main(words) == 0, capsys.readouterr().err
    assert Path("runs/heads/model.safetensors").is_file()


@pytest.mark.slow
def test_the_code_runs(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code("python").replace("num_steps=20", "num_steps=2"), "docs/finetuning.md", "exec"), {})
    assert "right name among 3" in capsys.readouterr().out


def test_every_option_exists() -> None:
    named = {name.replace("-", "_") for name in re.findall(r"--([a-z][a-z-]+)", PAGE)}
    assert {"replay", "held_out", "patience"} <= named
    assert named - {"data", "model"} <= set(Finetune.__dataclass_fields__)
