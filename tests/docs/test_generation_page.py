"""docs/generation.md is true: its code and its commands run, its options exist."""

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sensorium
from sensorium.cli import main
from sensorium.generate.interface import REQUEST_OPTIONS
from sensorium.generate.requests import MediaOptions, TextOptions
from sensorium.generate.scheduler import EngineConfig
from tests.cli.conftest import model_folder  # noqa: F401  (a fixture)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "generation.md").read_text(encoding="utf-8")


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photo.png")
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 8:20] = 255
    Image.fromarray(mask).save("mask.png")
    return pixels


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.S | re.M)


def test_the_code_of_the_page_runs(model_folder: Path, photo: np.ndarray) -> None:  # noqa: F811
    names: dict[str, object] = {"folder": model_folder}
    for block in blocks("python"):
        exec(block, names)
    assert "".join(names["pieces"]) == names["answer"]  # type: ignore[arg-type]
    assert names["sure"] in ("yes", "no")
    assert len(names["several"]) == 3  # type: ignore[arg-type]
    assert len(names["answers"]) == 4  # type: ignore[arg-type]
    inside = sensorium.Image("inside.png").pixels()
    outside = np.ones((24, 32), bool)
    outside[4:12, 8:20] = False
    assert np.array_equal(inside[outside], photo[outside])


def test_the_commands_of_the_page_run(
    model_folder: Path,  # noqa: F811
    photo: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("sensorium gen")]
    assert len(lines) == 4
    for line in lines:
        assert main([*shlex.split(line)[1:], "--model", str(model_folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert set(said) & {"yes", "no"}
    assert said[-3:] == ["car-1.png", "car-2.png", "beach.png"]
    assert all((tmp_path / name).is_file() for name in said[-3:])


def test_the_options_of_the_page_are_those_of_the_interface() -> None:
    told = set(re.findall(r"`([a-z_]+)`", PAGE))
    media = {field.name for field in dataclasses.fields(MediaOptions)} | set(REQUEST_OPTIONS)
    text = {field.name for field in dataclasses.fields(TextOptions)} - {"stop_tokens", "logprobs"}
    assert media | text <= told
    assert {"cache_tokens", "prefix_tokens", "feature_patches", "media_share"} <= told & {
        field.name for field in dataclasses.fields(EngineConfig)
    }
    assert f"{EngineConfig().media_share:.0%} of the time" in PAGE
