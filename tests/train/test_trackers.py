"""What a tracker was given is what its own reader finds, also after a resumed run. Packages that are missing are skipped."""

import dataclasses
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensorium.config import RunConfig
from sensorium.media.audio import encode_wav
from sensorium.media.image import encode_png
from sensorium.sequence.packing import Batch
from sensorium.train.metrics import read_metrics
from sensorium.train.trackers import open_trackers
from sensorium.train.trainer import Trainer
from tests.train.run import small_run

STEPS = 4


def write_samples(trainer: Any, folder: Path) -> None:
    """What commands/samples.py writes, without a model."""
    (folder / "samples.txt").write_text("step\ncaption of cat: 'a dog'\n")
    (folder / "picture.png").write_bytes(encode_png(np.full((8, 8, 3), 120, np.uint8)))
    (folder / "sound.wav").write_bytes(encode_wav(np.zeros(2400, np.float32)))


def tracked(data: Path, name: str) -> RunConfig:
    config = small_run(data, num_steps=STEPS, save_every=2, log_every=2)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, trackers=(name,)))


class Stopped(Trainer):
    """Fails in its fourth step, after a checkpoint of the second."""

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Any]:
        if self.step == 3:
            raise ValueError("stopped")
        return super().train_step(batches)


def train(data: Path, run: Path, name: str) -> list[dict[str, Any]]:
    config = tracked(data, name)
    with pytest.raises(ValueError, match="stopped"):
        Stopped(config, run, sampler=write_samples).train()
    Trainer(config, run, resume=True, sampler=write_samples).train()
    return read_metrics(run)


def log_records(path: Path) -> Iterator[bytes]:
    """The records of a W&B file: blocks of 32 KiB after a header of 7 bytes, as in LevelDB's log format."""
    block, header = 32 * 1024, struct.Struct("<IHB")
    data, at, waiting = path.read_bytes(), 7, b""
    while at + header.size <= len(data):
        if block - at % block < header.size:
            at += block - at % block
            continue
        _, length, kind = header.unpack_from(data, at)
        waiting += data[at + header.size : at + header.size + length]
        at += header.size + length
        if kind in (1, 4):  # a whole one, or the last piece of one
            yield waiting
            waiting = b""


def assert_same(found: dict[int, float], lines: Sequence[dict[str, Any]], key: str) -> None:
    assert found == pytest.approx({line["step"]: line[key] for line in lines if key in line}, rel=1e-5)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("WANDB_MODE", "offline"),
        ("WANDB_SILENT", "true"),
        ("TRACKIO_DIR", str(tmp_path / "db")),
    ):
        monkeypatch.setenv(name, value)


def test_tensorboard(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = train(data, tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), purge_orphaned_data=True).Reload()
    for key in ("loss", "loss_text", "grad_norm/layers"):
        assert_same({event.step: event.value for event in events.Scalars(key)}, lines, key)
    (picture,) = events.Images("samples/picture")
    assert (picture.step, picture.width, picture.height) == (STEPS, 8, 8)
    (sound,) = events.Audio("samples/sound")
    assert sound.sample_rate == 24_000
    assert "a dog" in str(events.Tensors("samples/samples/text_summary")[0].tensor_proto.string_val)


def test_wandb_offline(data: Path, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    lines = train(data, tmp_path / "run", "wandb")
    assert wandb.run is None  # it is finished
    found: dict[int, float] = {}
    ids, files = set(), set()
    for path in sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")):
        for serialized in log_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(serialized)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "loss" in items:
                found[record.history.step.num] = float(items["loss"])
            files |= {"/".join(key.split("/")[:2]) for key in items if key.startswith("samples/")}
    assert_same(found, lines, "loss")
    assert ids == {(tmp_path / "run" / "wandb-id").read_text()}
    assert {"samples/picture", "samples/sound", "samples/samples"} <= files


def test_trackio_local(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    lines = train(data, tmp_path / "run", "trackio")
    # Its folder is fixed when it is imported: read by a process that has the same one.
    code = "import json; from trackio.sqlite_storage import SQLiteStorage as s; print(json.dumps(s.get_logs('sensorium', 'run')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    logs = json.loads(done.stdout.splitlines()[-1])
    assert_same({log["step"]: log["loss"] for log in logs if "loss" in log}, lines, "loss")
    assert any("samples/picture" in log for log in logs)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_one_sentence(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # what an import of it then says
    with pytest.raises(ValueError, match=rf"train\.trackers names {name}.*pip install 'sensorium\[track\]'"):
        open_trackers(tracked(data, name), tmp_path, 0)
