"""How ranks begin and end: ``torchrun`` starts them, starts them again when one is lost, and may itself be lost."""

import os
import threading
import time
import uuid

import torch
import torch.distributed as dist
from torch.distributed import rendezvous
from torch.distributed.device_mesh import init_device_mesh

from sensorium.config import TrainConfig
from sensorium.interrupt import LAUNCHER
from sensorium.train.parallel import Ranks


def start_ranks(config: TrainConfig) -> Ranks:
    """Join the run that ``torchrun`` started, or be the only process.

    Raises:
        ValueError: the ranks cannot be divided as ``shard_size`` asks.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks(device=device)
    shard_size = config.shard_size or world_size
    if world_size % shard_size:
        raise ValueError(
            f"train.shard_size is {shard_size} and there are {world_size} ranks; it must divide them, as the number "
            "of devices in a node does"
        )
    if not dist.is_initialized():
        if LAUNCHER in os.environ:
            threading.Thread(target=_end_with_the_launcher, daemon=True).start()
        # Small things of the host travel beside the device's queue, so that no step waits for them.
        store, rank, _ = next(rendezvous("env://"))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store_of_this_life(store, rank, world_size),
            rank=rank,
            world_size=world_size,
        )
    mesh = init_device_mesh(
        device.type, (world_size // shard_size, shard_size), mesh_dim_names=("replicate", "shard")
    )
    return Ranks(rank=dist.get_rank(), world_size=world_size, device=device, mesh=mesh)


def store_of_this_life(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """The launcher's store without what earlier lives of the ranks have left there.

    ``torchrun`` keeps its store when it starts workers again: a rank that is early would read where its peer listened
    before, and "connection refused" ends that life too. The count of restarts cannot tell lives apart: machines differ
    in theirs. So rank 0 names the life, and waits until all others have come to it; a rank that finds its number taken
    or no end of waiting has read an old name.
    """
    if rank == 0:
        life = uuid.uuid4().hex
        store.set("life", life)
        store.wait([f"{life}/{other}" for other in range(1, world_size)])
        store.set(f"{life}/complete", "")
        return dist.PrefixStore(life, store)
    while True:
        life = store.get("life").decode()
        is_first = store.add(f"{life}/{rank}", 1) == 1
        while store.get("life").decode() == life:
            if is_first and store.check([f"{life}/complete"]):
                return dist.PrefixStore(life, store)
            time.sleep(0.05)


def _end_with_the_launcher() -> None:
    # Ranks whose launcher was killed would wait for each other for good, or hold the folder of a run that goes on.
    started_by = os.getppid()
    while os.getppid() == started_by:
        time.sleep(1)
    os._exit(1)


def stop_ranks(ranks: Ranks) -> None:
    """Leave the run in good order."""
    if ranks.world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


def was_restarted() -> bool:
    """Whether ``torchrun --max-restarts`` or a requeued Slurm job has started this process again."""
    return any(int(os.environ.get(f"{by}_RESTART_COUNT", "0")) > 0 for by in ("TORCHELASTIC", "SLURM"))
