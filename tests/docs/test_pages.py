"""The pages are true: their code runs, and the commands they name exist."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sensorium import recipes
from sensorium.cli import VERBS, main
from sensorium.config import DataConfig, RunConfig, SourceConfig, TrainConfig
from sensorium.train.metrics import read_metrics
from sensorium.train.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]

CHECKS = """
assert latents.shape == (2, config.model.latent_dim) and np.allclose(np.linalg.norm(latents, axis=1), 1, atol=1e-5)
assert isinstance(answer, str)
assert isinstance(made, Depth) and made.metres.shape == (32, 32)
print("ran")
"""


def test_the_example_of_a_new_modality_runs() -> None:
    page = (ROOT / "docs" / "add_a_modality.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.S)) + CHECKS
    # A process of its own: the registry is global, and other tests must not see the new modality.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "ran", result.stderr


def test_the_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = set(re.findall(r"^\s*sensorium ([a-z-]+)", readme, flags=re.M))
    assert {"quickstart", "finetune", "generate", "train"} <= verbs <= set(VERBS)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    assert set(re.findall(r"make ([a-z]+)", readme)) <= targets


def test_what_the_page_on_watching_names_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
    known = ""
    for words in (["train", "nano"], ["runs"]):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        known += capsys.readouterr().out
    options = set(re.findall(r"(?<![\w-])(--[a-z][a-z.-]+)", page)) - {"--logdir"}
    assert len(options) > 5
    for option in options:
        assert re.search(rf"{re.escape(option)}\b", known), option
    # Every key of the table is one that a run writes.
    run = RunConfig(
        name="page",
        tokenizer="starter-1k",
        model=recipes.get("base-debug").model,
        data=DataConfig(sources=(SourceConfig(path="starter:noto", weight=1),), samples_per_step=4),
        train=TrainConfig(num_steps=1, log_every=1),
    )
    Trainer(run, tmp_path / "run").train()
    (line,) = read_metrics(tmp_path / "run")
    (table,) = re.findall(r"A line of `metrics.jsonl`:\n\n(.*?)\n\n", page, flags=re.S)
    keys = {key for row in table.splitlines() for key in re.findall(r"`([a-z_/]+)`", row.split("|")[1])}
    assert keys
    assert keys <= set(line)


def test_a_reports_pictures_stay_inside_it(tmp_path: Path) -> None:
    from sensorium.evals.report import Report
    from sensorium.media.image import encode_png

    report = Report("A <b>title</b>")
    report.pictures([(encode_png(np.zeros((4, 4, 3), np.uint8)), 'a "label" <i>')])
    report.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in text
    assert "<i>" not in text
    assert "<b>" not in text
    assert "http" not in text
