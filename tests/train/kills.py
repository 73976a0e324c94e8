"""Lives of a run that are ended by ``kill -9`` at a chosen operation on its files, and the life that goes on.

A process of its own: ``python -m tests.train.kills CONFIG FOLDER NUMBER``. It forks for every life, so that the imports
are paid once.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from sensorium.config import RunConfig, load_config
from sensorium.train.checkpoint import last_checkpoint
from sensorium.train.trainer import Trainer

WATCHED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


class Operations:
    """Counts what this process does to the files of a run, and dies at one of them."""

    def __init__(self, run: Path, fatal: int | None) -> None:
        self.run, self.fatal, self.done = str(run), fatal, []
        self.fsync = os.fsync
        sys.addaudithook(self.hook)
        os.fsync = self.half_written  # type: ignore[assignment]

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event in WATCHED and str(args[0]).startswith(self.run):
            self.count(f"{event} {args[0]}")

    def half_written(self, fd: int) -> None:
        """Before its flush a file may be there in part."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if len(self.done) == self.fatal:
            os.ftruncate(fd, os.fstat(fd).st_size // 2)
        self.count(f"fsync {path}")
        self.fsync(fd)

    def count(self, what: str) -> None:
        if len(self.done) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.done.append(what)


def live(config: RunConfig, run: Path, fatal: int | None) -> int:
    """One life in a fork; returns the signal that ended it, or 0. A full life leaves the list of its operations."""
    child = os.fork()
    if child == 0:
        operations = Operations(run, fatal)
        Trainer(config, run, resume=last_checkpoint(run) is not None).train()
        run.with_suffix(".json").write_text(json.dumps(operations.done))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(config_file: str, folder: str, number: int) -> None:
    """An uninterrupted life, then ``number`` runs that are killed once each and resumed."""
    torch.set_num_threads(1)
    config = load_config(RunConfig, Path(config_file))
    whole = Path(folder) / "whole"
    assert live(config, whole, None) == 0
    operations = json.loads(whole.with_suffix(".json").read_text())
    saving = [
        n for n, what in enumerate(operations) if "step-" in what or "/last" in what or "/.last" in what
    ]
    seed = random.randrange(2**32)
    # Most of them inside a save: there is more to lose.
    rng = random.Random(seed)
    points = sorted(rng.sample(saving, number - 3)) + sorted(rng.sample(range(len(operations)), 3))
    print(json.dumps({"seed": seed, "points": [[n, operations[n]] for n in points]}))
    for index, point in enumerate(points):
        run = Path(folder) / f"killed-{index}"
        assert live(config, run, point) == signal.SIGKILL, operations[point]
        assert live(config, run, None) == 0


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
