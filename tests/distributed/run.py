"""What one rank does in a test of many: ``torchrun -m tests.distributed.run SCENARIO FOLDER``."""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sensorium.config import RunConfig, SourceConfig
from sensorium.sequence.packing import Batch
from sensorium.train import trainer as trainer_module
from sensorium.train.launch import stop_ranks
from sensorium.train.trainer import Trainer
from tests.model.small import small_config
from tests.train.run import small_run


def mixed_run(data: Path, **train: Any) -> RunConfig:
    """Pictures, sounds, words, edits and speech; the words can be dealt to one rank alone."""
    config = small_run(data, **{"num_steps": 20, "save_every": 0})
    trained = dataclasses.replace(config.train, **train)
    sources = (
        SourceConfig(
            path=str(data / "noto.parquet"), order_key="noto", weight=3, templates={"pair": 1, "align": 1}
        ),
        SourceConfig(path=str(data / "scratch.parquet"), order_key="scratch", weight=1, cut=True),
        SourceConfig(path=str(data / "words.parquet"), order_key="words", weight=2, templates={"text": 1}),
        SourceConfig(path=str(data / "edits.parquet"), order_key="edits", weight=1, templates={"chat": 1}),
        SourceConfig(
            path=str(data / "said.parquet"),
            order_key="said",
            weight=1,
            templates={"transcribe": 1},
            cut=True,
        ),
    )
    if trained.trained == "spellers":
        # Three sources as above, so that each rank has one, of which nothing but letters is asked.
        sources = tuple(
            dataclasses.replace(sources[-1], order_key=f"said/{n}", templates={"spell": 1}) for n in range(3)
        )
    return dataclasses.replace(
        config,
        model=small_config(bands=100, spelled_per_patch=3),
        train=trained,
        data=dataclasses.replace(config.data, sources=sources, samples_per_step=16, num_workers=0),
    )


class TextAlone(trainer_module.Loader):
    """The last part of every step has nothing but words, the others have what is left."""

    def part(self, step: int, number: int) -> list[tuple[int, int]]:
        visits = self.visits(step)
        words = [visit for visit in visits if visit[0] == 2]
        rest = [visit for visit in visits if visit[0] != 2]
        if self.num_parts == 1:
            return visits
        return words if number == self.num_parts - 1 else rest[number :: self.num_parts - 1]


class Noted(Trainer):
    """Notes losses, and which kinds of loss each rank had anything for."""

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Any]:
        for batch in batches:
            kinds = [*batch.context, *batch.targets, *(["pairs"] if len(batch.emb_a_M) else [])]
            kinds += ["spelled"] if batch.spelled else []
            copies = [media.sources for media in batch.targets.values() if media.sources]
            kinds += ["source"] if any(bool(sources.is_there_N.any()) for sources in copies) else []
            with (self.run_folder / f"kinds-{self.ranks.rank}.txt").open("a") as file:
                print(" ".join(kinds) or "text", file=file)
        return super().train_step(batches)


class KilledOnce(Noted):
    """The last rank is killed, as by the machine, in its seventh step; not after a restart."""

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Any]:
        first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first_life and self.step == 6 and self.ranks.rank == self.ranks.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train_step(batches)


class StoppedOnce(Noted):
    """The last rank alone is told to end after six steps; all of them save and end."""

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Any]:
        if self.step == 5 and self.ranks.rank == self.ranks.world_size - 1:
            signal.raise_signal(signal.SIGTERM)
        return super().train_step(batches)


KINDS = {"": Noted, "kill": KilledOnce, "stop": StoppedOnce}


def main(scenario: str, folder: str) -> None:
    """A scenario is a JSON list of runs, one after another: out, config changes, how."""
    torch.set_num_threads(1)
    trainer_module.Loader = TextAlone  # type: ignore[misc]
    for run in json.loads(Path(scenario).read_text()):
        config = mixed_run(Path(folder), **run.get("train", {}))
        model = dataclasses.replace(config.model, align_loss=run.get("align_loss", "softmax"))
        config = dataclasses.replace(config, model=model)
        out = Path(folder) / run["out"]
        trainer = KINDS[run.get("how", "")](config, out, resume=run.get("resume", False))
        try:
            trainer.train()
        except KeyboardInterrupt:
            said = f"rank {trainer.ranks.rank} ended by signal {trainer.stopped_by} at step {trainer.step}\n"
            sys.stdout.write(said)  # in one piece
    stop_ranks(trainer.ranks)


if __name__ == "__main__":
    main(*sys.argv[1:])
