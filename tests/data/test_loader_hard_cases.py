"""Cases that once went wrong: shared ids, few samples for many ranks, killed workers."""

import dataclasses
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensorium.config import DataConfig, SourceConfig, TrainConfig
from sensorium.data.loader import LARGEST_OF
from sensorium.data.schema import check_row, medium
from sensorium.data.workers import lost_worker_explained
from sensorium.data.writer import ShardWriter
from sensorium.media.image import encode_png
from tests.data.bad_samples import write_raw
from tests.data.corpus import loader, mixture, write_pictures, write_texts

ABOUT = {"split": "train", "source": "x", "license": "CC0-1.0", "attribution": "nobody"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return str(write_pictures(folder / "pictures")), str(write_texts(folder / "texts"))


def test_samples_that_share_an_id_keep_their_own_pictures(tmp_path: Path) -> None:
    rows = []
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        pixels = np.full((32, 32, 3), colour, np.uint8)
        rows.append({**ABOUT, "id": "a", "text": name, "image": medium(encode_png(pixels), "a.png")})
    write_raw(tmp_path / "a.parquet", rows)
    source = SourceConfig(path=str(tmp_path), weight=1, templates={"caption": 1})
    found = loader(DataConfig(sources=(source,), samples_per_step=2, augment=0.0))
    for step in range(4):
        documents = found.samples(step).documents
        for document in documents:
            picture = next(s.array for s in document.segments if hasattr(s, "grid"))
            is_red = bool(picture[0].mean() > 0)
            assert (document.group_keys[0] == "t:red") == is_red


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_largest_step_is_the_same_for_all_ranks(data: tuple[str, str], world_size: int) -> None:
    config = mixture(*data, largest_first=True)
    whole = loader(config)
    shares = [loader(config, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 5, LARGEST_OF):
        joined = {i for share in shares for i in share.batch(step).sample_ids}
        assert joined == set(whole.sample_ids(step))


@pytest.mark.parametrize(("samples", "world_size"), [(6, 4), (8, 6), (4, 2), (10, 8)])
def test_every_rank_has_a_sample_in_every_step(data: tuple[str, str], samples: int, world_size: int) -> None:
    sources = tuple(
        SourceConfig(path=path, weight=1, templates={template: 1})
        for path, template in ((data[0], "caption"), (data[1], "text"), ("starter:fluent", "caption"))
    )
    config = DataConfig(sources=sources, samples_per_step=samples)
    shares = [loader(config, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(20):
        found = [share.samples(step) for share in shares]
        assert min(one.num_visits for one in found) >= 1
    with pytest.raises(ValueError, match="so that every batch has a sample"):
        loader(config, rank=0, world_size=samples - 1)


def test_segments_that_overlap_are_all_said(tmp_path: Path) -> None:
    from sensorium.data.sample import Medium, Sample
    from sensorium.data.templates import build_documents
    from sensorium.sequence.document import TextSegment
    from sensorium.sequence.tokenizer import Tokenizer

    tokenizer = Tokenizer.bytes()
    sound = np.zeros((1, 6 * 16 * 4, 100), np.float32)
    segments = [
        {"start_s": 0.0, "end_s": 3.0, "text": "LONG"},
        {"start_s": 0.1, "end_s": 0.3, "text": "short"},
    ]
    sample = Sample("x", "s", media=[Medium("audio", sound, sound, (6, 100))], segments=segments)
    (document,) = build_documents(sample, "listen", tokenizer, np.random.default_rng(0))
    said = [tokenizer.decode(s.token_ids) for s in document.segments if isinstance(s, TextSegment)]
    assert "".join(said) == "short LONG"


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"segments": [{"start_s": 0.0, "end_s": 1.0, "text": None}]}, "segment 0 has no text"),
        ({"names": {"de": None}}, "'names' holds a null"),
        ({"metadata": {"voice": None}}, "'metadata' holds a null"),
    ],
)
def test_nulls_inside_are_refused(columns: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_row({**ABOUT, "id": "a", "text": "b", **columns})


def test_a_rejected_id_with_any_character_and_a_torn_line_do_not_stop_a_writer(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "data")
    writer.reject("train", 0, "a\u2028b\x85c", "bad\u2029")
    writer.abandon()
    with open(tmp_path / "data" / "rejected.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": "torn')
    with ShardWriter(tmp_path / "data") as writer:
        writer.reject("train", 0, "a\u2028b\x85c", "bad\u2029")
        writer.write({**ABOUT, "id": "a", "text": "b"}, 1)
    assert (tmp_path / "data" / "rejected.jsonl").read_bytes().count(b"\n") == 1


def test_a_killed_worker_is_one_sentence(data: tuple[str, str]) -> None:
    found = loader(mixture(*data, num_workers=1))
    stream: Iterator[Any] = found.stream(0, 100_000)
    next(stream)
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split()

    def is_worker(pid: str) -> bool:
        return b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()

    for pid in filter(is_worker, children):
        os.kill(int(pid), signal.SIGKILL)
    with (
        pytest.raises(OSError, match=r"^a process that makes batches has ended .*num_workers"),
        lost_worker_explained(),
    ):
        list(itertools.islice(stream, 1000))


def test_a_folder_with_brackets_in_its_name(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "data [v2]", 40)
    (folder / "manifest.json").unlink()
    source = SourceConfig(path=str(folder), weight=1, templates={"text": 1})
    assert loader(DataConfig(sources=(source,))).sources[0].reader.num_rows == 40


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": 3}', "nonsense"])
def test_a_manifest_that_is_none_is_one_sentence(tmp_path: Path, content: str) -> None:
    folder = write_texts(tmp_path / "texts", 40)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="is not a manifest of shards"):
        loader(DataConfig(sources=(SourceConfig(path=str(folder), weight=1),)))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="choose another"):
        replace(TrainConfig(), seed=seed)


def test_an_error_inside_a_worker_keeps_its_own_message() -> None:
    with pytest.raises(RuntimeError, match=r"^Caught KeyError"), lost_worker_explained():
        raise RuntimeError("Caught KeyError in DataLoader worker process 0.")


def test_a_step_too_small_for_its_sources_is_refused(data: tuple[str, str]) -> None:
    config = dataclasses.replace(mixture(*data), samples_per_step=1)
    with pytest.raises(ValueError, match=r"samples_per_step is 1; 1 ranks, .* 2 sources need 2"):
        loader(config)
