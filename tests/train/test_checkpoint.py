"""Checkpoints: whole or not at all, and whatever is broken in one is named."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sensorium.config import save_config
from sensorium.generate.interface import load
from sensorium.pretrained import load_model, read_tensors
from sensorium.train.checkpoint import last_checkpoint
from sensorium.train.trainer import Trainer
from tests.train.run import small_run

ROOT = Path(__file__).parents[2]


def can_mount() -> bool:
    """Whether this machine lets us have a small disk of our own."""
    trial = [
        "unshare",
        "--map-root-user",
        "--mount",
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=1m",
        "tmpfs",
        "/mnt",
    ]
    try:
        return subprocess.run(trial, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained")
    Trainer(small_run(data, num_steps=2, save_every=1), run).train()
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


# A full disk by real means: a limit on the size of files always, a small disk where one may be mounted.
@pytest.mark.parametrize("how", ["limit", *(["tmpfs"] if can_mount() else [])])
def test_a_full_disk_loses_nothing(how: str, data: Path, tmp_path: Path) -> None:
    save_config(small_run(data), tmp_path / "config.json")
    run = tmp_path / "disk"
    run.mkdir()
    command = [sys.executable, "-m", "tests.train.run", how, str(tmp_path / "config.json"), str(run)]
    if how == "tmpfs":
        mount = f'mount -t tmpfs -o size=16m tmpfs {run} && exec "$0" "$@"'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, *command]
    child = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert child.returncode == 0, child.stderr
    error, left = child.stdout.splitlines()
    number = {"limit": 27, "tmpfs": 28}[how]  # file too large, no space left
    assert error.startswith(f"error {number}: [Errno {number}] cannot save {run}/step-000002")
    assert error.endswith(f"free disk space and resume: the last good checkpoint is {run}/step-000001")
    assert left == "left last metrics.jsonl step-000001; resumed at step 1"


def test_saving_a_step_again_never_loses_it(run: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename fails at the worst moment: the earlier folder of the same step is still there."""
    trainer = Trainer(small_run(data), run, resume=True)
    before = read_tensors(run / "step-000002" / "model.safetensors")
    shutil.rmtree(run / "step-000001")
    real = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(source).name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match=r"last good checkpoint is .*step-000002"):
            trainer.save()
    after = read_tensors(run / "step-000002" / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert sorted(p.name for p in run.glob("*step*")) == ["step-000002"]


def test_a_checkpoint_that_nothing_names_yet_is_found(run: Path) -> None:
    (run / "last").write_text("step-000001\n")
    assert last_checkpoint(run) == run / "step-000001"
    (run / "last").unlink()
    assert last_checkpoint(run) == run / "step-000002"
    (run / "step-000002" / "training.json").unlink()
    assert last_checkpoint(run) == run / "step-000001"


def test_steps_over_a_million_are_found_and_old_ones_removed(run: Path, data: Path) -> None:
    (run / "last").unlink()
    shutil.copytree(run / "step-000002", run / "step-999999")
    shutil.copytree(run / "step-000002", run / "step-1000000")
    assert last_checkpoint(run) == run / "step-1000000"
    trainer = Trainer(small_run(data), run, resume=True)
    trainer.step = 1_000_001
    trainer.save()
    assert sorted(p.name for p in run.glob("step-*")) == ["step-1000000", "step-1000001"]


@pytest.mark.parametrize("file", ["training.safetensors", "model.safetensors"])
@pytest.mark.parametrize("tensor", ["layers.0.mlp.up_proj.weight", "norm.weight"])
def test_a_missing_tensor_is_named(run: Path, data: Path, file: str, tensor: str) -> None:
    path = run / "step-000002" / file
    prefix = "model." if file == "training.safetensors" else ""
    tensors = read_tensors(path)
    del tensors[prefix + tensor]
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=rf"{file} lacks the tensor '(model\.)?{tensor}'.*earlier checkpoint"
    ):
        Trainer(small_run(data), run, resume=True)
    if not prefix:
        with pytest.raises(
            ValueError, match=rf"{file} lacks the tensor '(model\.)?{tensor}'.*earlier checkpoint"
        ):
            load_model(path.parent)


def test_a_missing_tensor_of_the_optimiser_is_named(run: Path, data: Path) -> None:
    path = run / "step-000002" / "training.safetensors"
    tensors = read_tensors(path)
    del tensors["optimizer.exp_avg.norm.weight"]
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=r"training\.safetensors lacks the tensor 'optimizer\.exp_avg\.norm\.weight'"
    ):
        Trainer(small_run(data), run, resume=True)


def test_an_unknown_tensor_and_a_wrong_shape_are_named(run: Path) -> None:
    folder = run / "step-000002"
    tensors = read_tensors(folder / "model.safetensors")
    save_file({**tensors, "extra.weight": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"has the unknown tensor 'extra.weight'"):
        load_model(folder)
    save_file({**tensors, "norm.weight": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"'norm.weight' has shape \(3,\), the configuration needs \(32,\)"):
        load_model(folder)


@pytest.mark.parametrize("file", ["training.safetensors", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_file_is_named(run: Path, data: Path, file: str, keep: int) -> None:
    path = run / "step-000002" / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"{file} is damaged .*take another copy or an earlier checkpoint"):
        Trainer(small_run(data), run, resume=True)


def test_a_truncated_state_is_named(run: Path, data: Path) -> None:
    path = run / "step-000002" / "training.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(ValueError, match=r"training\.json is damaged .*earlier checkpoint"):
        Trainer(small_run(data), run, resume=True)


@pytest.mark.parametrize(
    ("where", "key", "error"),
    [
        ((), "modle", "unknown configuration key 'modle'; the nearest known key is 'model'"),
        (("train",), "lerning_rate", "unknown configuration key 'train.lerning_rate'; the nearest"),
        (("model", "modalities", "image"), "path", "nearest known key is 'model.modalities.image.patch'"),
    ],
)  # fmt: skip
def test_an_unknown_configuration_key_is_named_with_the_nearest(
    run: Path, where: tuple[str, ...], key: str, error: str
) -> None:
    path = run / "step-000002" / "config.json"
    values = json.loads(path.read_text())
    inner = values
    for name in where:
        inner = inner[name]
    inner[key] = 1
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=error) as raised:
        load_model(path.parent)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(run: Path, file: str) -> None:
    (run / "step-000002" / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        load_model(run / "step-000002")


def test_saved_equals_loaded(run: Path, data: Path) -> None:
    config = small_run(data)
    trainer = Trainer(config, run, resume=True)
    model, tokenizer, loaded = load_model(run / "step-000002")
    assert loaded.model == config.model
    assert tokenizer.backend.to_str() == trainer.tokenizer.backend.to_str()
    assert all(torch.equal(value, trainer.ema.weights[name]) for name, value in model.state_dict().items())
    assert not all(
        torch.equal(value, trainer.model.state_dict()[name]) for name, value in model.state_dict().items()
    )
    assert load(run).config == loaded  # a run folder opens at its last checkpoint
    for parameter in trainer.optimizer.home:
        state = trainer.optimizer.state_of(parameter)
        assert float(state["step"]) == 2
        assert state["exp_avg"].shape == parameter.shape


def test_nothing_is_ever_unpickled(run: Path) -> None:
    assert {p.suffix for p in (run / "step-000002").iterdir()} == {".json", ".safetensors"}


def test_a_list_of_templates_as_earlier_versions_wrote_it_is_named(run: Path) -> None:
    path = run / "step-000002" / "config.json"
    values = json.loads(path.read_text())
    values["data"]["sources"][0]["templates"] = ["pair"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"'data\.sources\.0\.templates' is \['pair'\]; expected an object"):
        load_model(path.parent)


def test_a_medium_too_large_for_its_size_tokens_is_refused() -> None:
    from sensorium.config import ModalityConfig, ModelConfig

    with pytest.raises(ValueError, match="more than 255 patches"):
        ModelConfig(
            vocab_size=600, modalities={"image": ModalityConfig(channels=3, patch=(2, 2), max_size=(512, 8))}
        )
