"""The real command in a subprocess, and a small random model for it to use."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("sensorium")
Run = Callable[..., subprocess.CompletedProcess[str]]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}
ENVIRONMENT.pop("SENSORIUM_DEBUG", None)

# A model of the recipe's kind that trains a step in milliseconds, as overrides.
TINY = (
    *("--model.dim", "32", "--model.num-layers", "1", "--model.num-heads", "2", "--model.num-kv-heads", "1"),
    *("--model.head-dim", "16", "--model.mlp-dim", "64", "--model.latent-dim", "16"),
    *("--data.samples-per-step", "24", "--train.log-every", "2", "--train.max-train-s", "0"),
)


def run_command(
    *arguments: str | Path,
    stdin: str = "",
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env={**ENVIRONMENT, **(environment or {})},
        timeout=120,
        check=False,
    )


def assert_mistake(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    """One sentence on stderr that holds the fragments, exit code 2, no traceback, nothing on stdout."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert lines[0].startswith("sensorium")
    for fragment in fragments:
        assert fragment in lines[0], f"{fragment!r} is not in {lines[0]!r}"
    assert done.stdout == ""


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command in this process: for what needs torch, which takes seconds to start, once more."""
    from sensorium.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        line = [str(argument) for argument in arguments]
        capsys.readouterr()
        code = main(line)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(line, code, said.out, said.err)

    return run


@pytest.fixture
def command(tmp_path: Path) -> Run:
    """The command, run in an empty folder."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, **{"cwd": tmp_path, **options})  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of small dimensions, with tokenizer and configuration, as a user would have it."""
    import torch

    from sensorium.config import DataConfig, ModalityConfig, ModelConfig, RunConfig, TrainConfig
    from sensorium.model.sensorium import Sensorium
    from sensorium.pretrained import save_model
    from sensorium.sequence.tokenizer import Tokenizer

    tokenizer = Tokenizer.bytes()
    model = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        dim=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_dim=64,
        latent_dim=16,
        modalities={
            "image": ModalityConfig(channels=3, patch=(8, 8), max_size=(16, 16), num_encoder_layers=1),
            "audio": ModalityConfig(
                channels=1, patch=(6, 100), max_size=(60, 100), num_encoder_layers=1, refiner=False
            ),
        },
    )
    config = RunConfig(
        name="small", tokenizer="bytes", model=model, data=DataConfig(sources=()), train=TrainConfig()
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, Sensorium(model).state_dict(), config, tokenizer)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A photo.png of 20 x 12 pixels."""
    import numpy as np
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A memo.wav of a fifth of a second."""
    import numpy as np
    import soundfile

    path = tmp_path / "memo.wav"
    soundfile.write(path, np.sin(np.arange(3200) / 8).astype(np.float32) / 2, 16_000)
    return path


def split_metrics(run: Path) -> Sequence[dict[str, float]]:
    """Each step's figures, without those that depend on the clock."""
    from sensorium.train.metrics import read_metrics

    clock = {"tokens_per_s", "images_per_s", "audio_s_per_s", "mfu", "data_wait_s", "elapsed_s"}
    return [{k: v for k, v in line.items() if k not in clock} for line in read_metrics(run)]
