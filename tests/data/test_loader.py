"""The stream: the same samples at any number of workers and ranks, killed and resumed; nothing bad stops it."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sensorium import recipes
from sensorium.config import DataConfig, SourceConfig, Template
from sensorium.data import loader as loader_module
from sensorium.data.findings import KINDS
from sensorium.data.loader import Loader
from sensorium.sequence.packing import Batch
from tests.data.bad_samples import bad_rows, expected_kinds, good_row, write_raw
from tests.data.corpus import loader, mixture, write_pictures, write_texts
from tests.data.stream_ids import begin

NUM_STEPS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return str(write_pictures(folder / "pictures")), str(write_texts(folder / "texts"))


def ids(batch: Batch) -> list[str]:
    return list(dict.fromkeys(batch.sample_ids))


def equal(a: Batch, b: Batch) -> bool:
    tensors = ("token_ids_BT", "labels_BT", "positions_BT3", "doc_id_BT", "block_id_BT", "positives_MM")
    media = [
        a.context[k].arrays_NCHW.equal(b.context[k].arrays_NCHW) for k in a.context.keys() | b.context.keys()
    ]
    return all(getattr(a, name).equal(getattr(b, name)) for name in tensors) and all(media)


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_at_least_95_percent_of_the_positions_are_used(name: str) -> None:
    config = recipes.get(name)
    from sensorium.sequence.tokenizer import Tokenizer

    source = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0)
    batches = [source.batch(step) for step in range(6)]
    used = sum(batch.num_tokens for batch in batches) / sum(batch.doc_id_BT.numel() for batch in batches)
    assert used >= 0.95


def test_workers_give_the_same_batches(data: tuple[str, str]) -> None:
    reference = [loader(mixture(*data)).batch(step) for step in range(3, 11)]
    for num_workers in (0, 1, 2):
        streamed = list(loader(mixture(*data, num_workers=num_workers)).stream(3, 11))
        assert [step for step, _ in streamed] == list(range(3, 11))
        assert all(equal(a, b) for a, (_, b) in zip(reference, streamed, strict=True))


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(step=st.integers(0, 10**6), world_size=st.integers(1, 5))
def test_ranks_share_out_the_same_samples(data: tuple[str, str], step: int, world_size: int) -> None:
    whole = loader(mixture(*data))
    shares = [
        loader(mixture(*data), rank=rank, world_size=world_size).batch(step) for rank in range(world_size)
    ]
    # A step on the border of two epochs may hold a sample twice, so ids are compared as sets.
    assert {i for share in shares for i in share.sample_ids} == set(whole.sample_ids(step))
    visits = [share.num_visits for share in shares]
    assert sum(visits) == 24
    assert max(visits) - min(visits) <= 2  # one for each source
    assert ids(whole.batch(step)) == list(dict.fromkeys(whole.sample_ids(step)))


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_clean_stage_takes_over_at_its_step(data: tuple[str, str], world_size: int) -> None:
    pictures, texts = data
    config = DataConfig(
        sources=(
            SourceConfig(path=pictures, weight=2),
            SourceConfig(path=texts, weight=1, templates={"text": 1}),
        ),
        clean_sources=(SourceConfig(path=texts, weight=1, templates={"text": 1}),),
        clean_from=5,
        samples_per_step=12,
        row_length=64,
    )
    two = loader(config)
    broad = loader(replace(config, clean_sources=(), clean_from=0))
    clean = loader(DataConfig(sources=config.clean_sources, samples_per_step=12, row_length=64))
    for step in range(10):
        expected = broad.sample_ids(step) if step < 5 else clean.sample_ids(step - 5)
        assert two.sample_ids(step) == expected
        shares = [loader(config, rank=r, world_size=world_size).batch(step) for r in range(world_size)]
        assert {i for share in shares for i in share.sample_ids} == set(expected)
    with pytest.raises(ValueError, match="clean_from is 0"):
        replace(config, clean_from=0)


# Without shrinking: every example starts processes.
@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    killed_at=st.integers(1, NUM_STEPS - 2),
    before=st.tuples(st.integers(0, 2), st.integers(1, 2)),
    after=st.tuples(st.integers(0, 2), st.integers(1, 3)),
)
@pytest.mark.slow
def test_killed_and_resumed_elsewhere(
    data: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    killed_at: int,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    """`kill -9` of real processes at a random step; the rest runs with other numbers of workers and ranks."""
    folder = tmp_path_factory.mktemp("run")

    def start(name: str, first: int, setup: tuple[int, int], pause: float) -> list[BaseProcess]:
        workers, size = setup
        paths = [str(folder / f"{name}-{rank}") for rank in range(size)]
        return [
            begin(*data, path, first, NUM_STEPS, workers, rank, size, pause)
            for rank, path in enumerate(paths)
        ]

    def read(name: str, world_size: int) -> dict[int, list[str]]:
        """The samples of the steps that every rank has finished."""
        steps: dict[int, dict[int, list[str]]] = {}
        for rank in range(world_size):
            path = folder / f"{name}-{rank}"
            for line in path.read_text().splitlines() if path.exists() else []:
                step, _, found = json.loads(line)
                steps.setdefault(step, {})[rank] = found
        return {
            step: sorted({i for share in found.values() for i in share})
            for step, found in steps.items()
            if len(found) == world_size
        }

    running = start("before", 0, before, 0.02)
    deadline = time.monotonic() + 60
    while len(read("before", before[1])) < killed_at and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in running:
        process.kill()
        process.join()
    done = read("before", before[1])
    resume_at = max(done) + 1
    running = start("after", resume_at, after, 0.0)
    for process in running:
        process.join(timeout=120)
        process.kill()  # where it hangs
    assert [process.exitcode for process in running] == [0] * after[1]
    done |= read("after", after[1])
    whole = loader(mixture(*data))
    # A step on the border of two epochs may hold a sample twice.
    assert done == {step: sorted(set(whole.sample_ids(step))) for step in range(NUM_STEPS)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ctrl_c_ends_it_quietly(data: tuple[str, str], tmp_path: Path, num_workers: int) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.data.stream_ids",
            *data,
            str(tmp_path / "ids"),
            *f"0 100000 {num_workers} 0 1 0".split(),  # no pause: Ctrl-C mostly finds it waiting for a batch
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests themselves run in the background, a shell has told them to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ids").exists() or not (tmp_path / "ids").stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group
        _, err = process.communicate(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert err.count("Traceback") == 1
    assert err.strip().endswith("KeyboardInterrupt")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are told by Linux")
def test_workers_end_with_a_run_that_was_killed(data: tuple[str, str], tmp_path: Path) -> None:
    process = begin(*data, str(tmp_path / "ids"), 0, 100_000, 2, 0, 1, 0.05)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ids").exists() or not (tmp_path / "ids").stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(workers) >= 2
    finally:
        process.kill()
        process.join()
    deadline = time.monotonic() + 15
    while left := [pid for pid in workers if _is_running(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(int(pid), signal.SIGKILL)
            pytest.fail(f"{len(left)} workers outlive the run that started them")
        time.sleep(0.1)


def _is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_shares_follow_the_weights(data: tuple[str, str]) -> None:
    source = loader(mixture(*data))
    found = Counter(
        i.partition("-")[0].partition("/")[0] for step in range(40) for i in source.sample_ids(step)
    )
    assert found == {"noto": 720, "text": 240}


def test_templates_are_drawn_by_weight(data: tuple[str, str]) -> None:
    source = loader(mixture(*data))
    tasks = Counter(
        task
        for step in range(40)
        for task in {i: t for i, t in zip(*names(source, step), strict=True)}.values()
    )
    share = tasks["noto/pair"] / (tasks["noto/pair"] + tasks["noto/caption"])
    assert 0.60 < share < 0.73  # two to one; 720 draws have a deviation of 1.8 points


def names(source: Loader, step: int) -> tuple[list[str], list[str]]:
    batch = source.batch(step)
    return batch.sample_ids, batch.tasks


def test_the_largest_batch_comes_first_on_request(
    data: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    num = 12  # of 64: every step is made twice here
    monkeypatch.setattr(loader_module, "LARGEST_OF", num)
    usual, asked = loader(mixture(*data)), loader(mixture(*data, largest_first=True))
    sizes = [usual.batch(step).num_tokens for step in range(num)]
    assert asked.batch(0).num_tokens == max(sizes) > sizes[0]
    moved = sizes.index(max(sizes))
    assert ids(asked.batch(moved)) == ids(usual.batch(0))
    assert ids(asked.batch(num)) == ids(usual.batch(num))


def test_what_a_run_cannot_take_is_told_apart_from_what_is_broken(data: tuple[str, str]) -> None:
    source = loader(replace(mixture(*data), row_length=20))  # a picture takes 16, its name a few more
    batch = source.batch(0)
    source.note(batch)
    assert source.over_budget
    assert not source.bad
    assert all("20" in reason for _, reason in batch.over_budget)
    with pytest.raises(ValueError, match=r"none of the 24 samples of step 0 can be used.*row_length"):
        loader(replace(mixture(*data), row_length=4)).batch(0)


def test_a_template_that_asks_for_what_is_not_there_stops_the_run(data: tuple[str, str]) -> None:
    config = DataConfig(
        sources=(SourceConfig(path=data[0], weight=1, templates={"transcribe": 1, "listen": 1}),)
    )
    source = loader(config)
    with pytest.raises(ValueError, match=r"samples could not be used.*needs audio, the sample has image"):
        for _ in source.stream(0, 10):
            pass


@pytest.mark.parametrize(
    ("sources", "match"),
    [
        ((), "weights of the sources"),
        ((SourceConfig(path="starter:noto", weight=0),), "weights of the sources"),
        ((SourceConfig(path="starter:noto", weight=1, templates={}),), "weights of its templates"),
        ((SourceConfig(path="starter:noto", weight=1, templates={"pear": 1}),), "unknown template 'pear'"),
        ((SourceConfig(path="starter:noto", weight=1, split="tset"),), "no row in split 'tset'"),
        ((SourceConfig(path="starter:nto", weight=1),), "unknown starter source 'nto'"),
        ((SourceConfig(path="no/such", weight=1),), "no Parquet data at no/such"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(sources: tuple[SourceConfig, ...], match: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        loader(DataConfig(sources=sources))


def test_a_runs_own_template() -> None:
    own = {"shout": Template(documents=("{media}{how}<assistant>{text!}<eos!>",), words={"how": ("loud!",)})}
    source = SourceConfig(path="starter:noto", weight=1, templates={"shout": 1})
    batch = loader(DataConfig(sources=(source,), templates=own, samples_per_step=4)).batch(0)
    assert set(batch.tasks) == {"noto/shout"}
    wrong = {"shout": Template(documents=("{media}{who}",))}
    with pytest.raises(ValueError, match=r"slot {who} is unknown"):
        loader(DataConfig(sources=(source,), templates=wrong))


def test_threads_of_torch_survive_workers(data: tuple[str, str]) -> None:
    """A forked worker must not leave the parent's compute in a bad state."""
    torch.randn(64, 64) @ torch.randn(64, 64)
    list(loader(mixture(*data, num_workers=2)).stream(0, 3))
    assert torch.isfinite(torch.randn(512, 512) @ torch.randn(512, 512)).all()


BAD_KINDS = {name: kind for name, kind in expected_kinds().items() if KINDS[kind].severity == "error"}
# Rows of no split are never read.
UNSEEN = ("split_unknown", "split_null")
WITHOUT_ID = ("id_empty", "id_null", "id_not_utf8")


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of broken row among good ones."""
    folder = tmp_path_factory.mktemp("spoiled")
    rows = bad_rows()
    good = [good_row(f"good/{n}", text=f"number {n}") for n in range(3 * len(BAD_KINDS))]
    write_raw(folder / "bad.parquet", [*good, *(rows[name] for name in BAD_KINDS)])
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_kind_of_bad_sample_is_counted_and_stops_nothing(
    spoiled: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    monkeypatch.setattr(loader_module, "MAX_BAD_RATE", 1.0)
    source = SourceConfig(path=str(spoiled), weight=1, templates={"text": 1})
    config = DataConfig(sources=(source,), samples_per_step=32, num_workers=num_workers, row_length=512)
    found = loader(config)
    num_steps = 1 + found.sources[0].reader.num_rows // 32
    reasons: dict[str, str] = {}
    for _, batch in found.stream(0, num_steps):
        assert not any(i.startswith("bad/") for i in batch.sample_ids)
        reasons |= dict(batch.bad) | dict(batch.over_budget)
    named = {name.removeprefix("bad/") for name in reasons if name.startswith("bad/")}
    assert set(BAD_KINDS) - named == {*WITHOUT_ID, *UNSEEN}
    assert len(named) >= 100
    # Those without an id are named by their place.
    assert {
        "" if not name else name.rpartition(": ")[2][:4]
        for name in reasons.keys() - {f"bad/{n}" for n in named}
    } == {"", "row "}
    assert all(len(reason) > 10 and "\n" not in reason for reason in reasons.values())
    assert set(found.bad) | set(found.over_budget) == set(reasons)


def test_an_error_in_a_worker_is_one_sentence(spoiled: Path) -> None:
    source = SourceConfig(path=str(spoiled), weight=1, templates={"text": 1})
    found = loader(DataConfig(sources=(source,), samples_per_step=8, num_workers=1, row_length=1))
    with pytest.raises(ValueError, match=r"^none of the 8 samples of step 0 can be used.*$"):
        next(found.stream(0, 2))


def test_bad_samples_leave_nothing_in_memory(tmp_path: Path) -> None:
    # A million letters take most of the time, and are the tokenizer's alone.
    rows = [row for name, row in bad_rows().items() if name in BAD_KINDS and name != "text_of_a_million"]
    write_raw(tmp_path / "bad.parquet", [*rows, *(good_row(f"good/{n}", text=f"{n}") for n in range(64))])
    source = SourceConfig(path=str(tmp_path), weight=1, templates={"text": 1})
    found = loader(DataConfig(sources=(source,), samples_per_step=64, cache_mb=8, row_length=512))
    steps = 1 + found.sources[0].reader.num_rows // 64

    def used_mb() -> float:
        for step in range(steps):
            found.samples(step)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    used_mb()
    before = used_mb()
    assert max(used_mb() for _ in range(6)) - before < 24
