"""Pretraining in four minutes, through its own door, with the figures that it must show."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND  # the installed command


@pytest.mark.slow
def test_the_demo_shows_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [str(COMMAND), "pretrain-demo", "--out", str(out)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((out / "report.json").read_text(encoding="utf-8"))
    print(json.dumps(figures))
    assert figures["train_seconds"] <= 240
    for name, times_chance in {"picture_to_word": 20, "word_to_picture": 20, "sound_to_word": 10}.items():
        assert figures[name]["after"]["r1"] >= times_chance * figures[name]["after"]["chance"], name
        assert figures[name]["before"]["r1"] < 5 * figures[name]["before"]["chance"], name
    vqa = figures["vqa"]["after"]
    assert vqa["accuracy"] >= vqa["blind"] + 0.10
    report = (out / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/png") > 40
    assert report.count("data:audio/wav") >= 8
    assert "sensorium generate" in done.stdout
