"""Write the ids of each step's samples, one JSON line a step; in a process of its own that tests kill.

Run as a program, its arguments are those of `stream_ids`.
"""

import json
import multiprocessing
import sys
import time
from multiprocessing.process import BaseProcess

from tests.data.corpus import loader, mixture


def stream_ids(
    pictures: str,
    texts: str,
    path: str,
    start: int,
    stop: int,
    workers: int,
    rank: int,
    world: int,
    pause: float,
) -> None:
    """Stream batches; pause some seconds after each."""
    multiprocessing.set_start_method(None, force=True)  # workers are made as in any program
    source = loader(mixture(pictures, texts, num_workers=workers), rank=rank, world_size=world)
    with open(path, "a", encoding="utf-8") as file:
        for step, batch in source.stream(start, stop):
            file.write(json.dumps([step, rank, list(dict.fromkeys(batch.sample_ids))]) + "\n")
            file.flush()
            time.sleep(pause)


def begin(*arguments: object) -> BaseProcess:
    """`stream_ids` in a new process; all of them share one start of Python and its imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.data.stream_ids"])
    process = context.Process(target=stream_ids, args=arguments)
    process.start()
    return process


if __name__ == "__main__":
    stream_ids(*sys.argv[1:4], *map(int, sys.argv[4:9]), float(sys.argv[9]))
