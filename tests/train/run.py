"""A run small enough for tests, and what a child process does with it before it dies."""

import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sensorium.config import DataConfig, RunConfig, SourceConfig, TrainConfig, load_config
from sensorium.sequence.packing import Batch
from sensorium.starter import starter_sources
from sensorium.train.trainer import Trainer
from tests.model.small import small_config


def write_data(folder: Path) -> None:
    """A few real pictures and sounds."""
    for name, count in (("noto", 24), ("scratch", 8)):
        table = pq.read_table(starter_sources()[name])
        splits = {
            split: table.filter(pa.compute.equal(table["split"], split)) for split in ("train", "validation")
        }
        chosen = [splits["train"].slice(0, count), splits["validation"].slice(0, 8)]
        pq.write_table(pa.concat_tables(chosen), folder / f"{name}.parquet")


def small_run(data: Path, **train: Any) -> RunConfig:
    options = {"num_steps": 10, "save_every": 5, "log_every": 100, "lr": 1e-3, **train}
    return RunConfig(
        name="small",
        tokenizer="bytes",
        model=small_config(bands=100),
        data=DataConfig(
            sources=(
                SourceConfig(
                    path=str(data / "noto.parquet"),
                    order_key="noto",
                    weight=3,
                    templates={"pair": 1, "align": 1},
                ),
                SourceConfig(path=str(data / "scratch.parquet"), order_key="scratch", weight=1, cut=True),
            ),
            row_length=96,
            samples_per_step=8,
        ),
        train=TrainConfig(**options),  # type: ignore[arg-type]
    )


class Killed(Trainer):
    """Is killed, as by the machine, after seven steps."""

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Any]:
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train_step(batches)


def fill_disk(folder: Path, how: str) -> None:
    """From now on no new checkpoint fits."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 4, resource.RLIM_INFINITY))
    else:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        (folder / "filler").write_bytes(b"\0" * (free - size // 2))


def main(what: str, config_file: str, run: str) -> None:
    config = load_config(RunConfig, Path(config_file))
    if what == "kill":
        Killed(config, Path(run)).train()
        return
    trainer = Trainer(config, Path(run))
    stream = trainer.loader.stream(0, 2)
    for step, batch in stream:
        trainer.train_step([batch])
        if step == 0:
            trainer.save()
    fill_disk(Path(run), what)
    try:
        trainer.save()
    except OSError as error:
        print(f"error {error.errno}: {error}")
    (Path(run) / "filler").unlink(missing_ok=True)
    left = sorted(path.name for path in Path(run).iterdir())
    again = Trainer(config, Path(run), resume=True)
    print(f"left {' '.join(left)}; resumed at step {again.step}")


if __name__ == "__main__":
    main(*sys.argv[1:])
