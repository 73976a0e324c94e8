"""The processes that make batches for a `Loader`."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.data

from sensorium.sequence.packing import map_arrays

LARGE_BYTES = 256 * 1024


class Batches(torch.utils.data.Dataset[Any]):
    """Batches, those of a step one after another, as a map-style data set."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getitem__(self, number: int) -> Any:
        try:
            batch = self.loader.batch(*divmod(number, self.loader.num_microbatches))
        except (ValueError, OSError) as error:
            return ValueError(str(error))  # raised there, it would arrive as a traceback in a message
        # A tensor travels between processes as a file of its own: only large ones are worth that.
        return map_arrays(batch, lambda t: t if t.nbytes > LARGE_BYTES else t.numpy(), torch.Tensor)


def start_worker(number: int) -> None:
    """Make a process ready: it ends with its parent, quietly, and inherits no open file."""
    # Ctrl-C reaches every process of a terminal: the parent ends its workers, which must not print tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    info: Any = torch.utils.data.get_worker_info()
    for source in info.dataset.loader.sources:
        source.reader.forget()


def _end_with_the_parent() -> None:
    # A worker of a run that was killed would wait for good: nobody reads the batch that it is sending.
    # A forked one inherits what `is_alive` waits for, a spawned one may begin after its parent has gone.
    started_by, parent = os.getppid(), multiprocessing.parent_process()
    while os.getppid() == started_by and parent is not None and parent.is_alive():
        time.sleep(1)
    os._exit(1)


@contextmanager
def lost_worker_explained() -> Iterator[None]:
    """What torch says of a worker that was killed, wherever its signal finds the run.

    Raises:
        OSError: a process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # an error inside one begins with "Caught"
            raise
        raise OSError(
            f"a process that makes batches has ended ({str(error).splitlines()[0]}), often for want of memory; "
            "give fewer data.num_workers or a smaller data.cache_mb, and resume"
        ) from error
