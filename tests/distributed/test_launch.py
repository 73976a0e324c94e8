"""Ranks find each other in a store that earlier lives have used."""

import threading

import pytest
import torch.distributed as dist

from sensorium.train.launch import store_of_this_life


@pytest.mark.parametrize("came", [(1, 2), (1,), ()])
def test_ranks_of_a_new_life_never_meet_those_of_an_earlier_one(came: tuple[int, ...]) -> None:
    """Early ranks find the name of a life that was complete, half complete, or of the first rank alone."""
    server = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    server.set("life", "earlier")
    for rank in came:
        server.add(f"earlier/{rank}", 1)
    if len(came) == 2:
        server.set("earlier/complete", "")
    found: dict[int, dist.Store] = {}

    def join(rank: int) -> None:
        client = dist.TCPStore("localhost", server.port, is_master=False, wait_for_workers=False)
        found[rank] = store_of_this_life(client, rank, 3)

    threads = [threading.Thread(target=join, args=(rank,), daemon=True) for rank in (1, 2, 0)]
    for thread in threads[:2]:
        thread.start()
    threads[0].join(0.3)
    assert not found
    threads[2].start()
    for thread in threads:
        thread.join(10)
    assert sorted(found) == [0, 1, 2]
    found[0].set("from", "zero")
    assert [found[rank].get("from") for rank in (1, 2)] == [b"zero", b"zero"]
