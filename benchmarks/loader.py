"""Rows per second from files to batches, beside `webdataset`, `datasets` and decoding from memory.

    python benchmarks/loader.py [--runs 5] [--rows 2000] [--json loader.json]

All read the same encoded pictures (JPEG; those of the embedded data, enlarged to 256 px) with their names, make them
64 px wide and batches of 64. Ours also checks each row, draws a template, packs documents into rows and makes positions,
labels and block ids; the peers pad token ids. "memory" only decodes, from a list in memory: the ceiling. Peers and ceiling
decode as their users do (`Image.open(...).convert("RGB").resize(...)`), and once more with our decoder, which reads JPEG at a
fraction of its size. Every figure comes from a fresh process, in turns; the first batch is not counted.

Also measured: how long it takes from nothing to the first batch at 0%, 50% and 99% of an epoch of a million rows.
"""

import argparse
import functools
import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH = 64
OWN = " with our decoder"
PEERS = ("webdataset", "datasets", "memory")
NAMES = ("ours", *PEERS, *(peer + OWN for peer in PEERS))
NUM_TARS = 4
MILLION = 16
Decode = Callable[[bytes], Any]


def write_data(root: Path, num_rows: int) -> None:
    """The same rows as shards, as WebDataset tars and as plain Parquet of the `datasets` library."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from sensorium.data.schema import medium
    from sensorium.data.writer import ShardWriter
    from sensorium.starter import load_table

    rows = load_table("noto", "fluent").to_pylist(maps_as_pydicts="strict")
    pictures: list[tuple[str, bytes]] = []
    for number in range(num_rows):
        row = rows[number % len(rows)]
        large = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").resize((256, 256))
        buffer = io.BytesIO()
        large.save(buffer, "JPEG", quality=90)
        pictures.append((row["text"], buffer.getvalue()))
    about = {
        "split": "train",
        "source": "benchmark",
        "license": "see noto, fluent",
        "attribution": "noto, fluent",
    }
    with ShardWriter(root / "shards", shard_bytes=16 * 2**20) as writer:
        for number, (text, data) in enumerate(pictures):
            writer.write(
                {"id": str(number), "text": text, "image": medium(data, f"{number}.jpg"), **about}, number
            )
    for part in range(NUM_TARS):
        with tarfile.open(root / f"data-{part}.tar", "w") as tar:
            for number, (text, data) in list(enumerate(pictures))[part::NUM_TARS]:
                for suffix, content in (("jpg", data), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    plain = {
        "image": [{"bytes": data, "path": None} for _, data in pictures],
        "text": [text for text, _ in pictures],
    }
    (root / "plain").mkdir()
    pq.write_table(pa.Table.from_pydict(plain), root / "plain" / "train.parquet", row_group_size=64)


def write_million(root: Path) -> None:
    """A million rows by their index: sixteen names of one file of 65,536 rows."""
    from sensorium.data.writer import SHARD_ROWS, ShardWriter

    about = {"split": "train", "source": "numbers", "license": "CC0-1.0", "attribution": "nobody"}
    with ShardWriter(root) as writer:
        for number in range(SHARD_ROWS):
            writer.write({"id": f"{number}", "text": f"the number {number}", **about}, number)
    manifest = json.loads((root / "manifest.json").read_text())
    ((name, entry),) = manifest["files"].items()
    for number in range(1, MILLION):
        other = f"train-{number:05d}.parquet"
        (root / other).hardlink_to(root / name)
        manifest["files"][other] = entry
    manifest["num_rows"] *= MILLION
    (root / "manifest.json").write_text(json.dumps(manifest))


def plain(data: bytes) -> Any:
    """What users of the peers do to a picture: float32 ``[3, 64, 64]``."""
    import numpy as np
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1


def own(data: bytes) -> Any:
    """What ours does to it."""
    from sensorium.media.image import decode_image, normalize_image, resize_image

    return normalize_image(resize_image(decode_image(data, for_size=(64, 64)), 64, 64))


def collate(samples: list[tuple[Any, str]]) -> Any:
    """What users of the peers do: stack the pictures, encode and pad the words."""
    import numpy as np
    import torch

    tokenizer = _tokenizer()
    ids = [torch.tensor(tokenizer.encode(text)) for _, text in samples]
    return torch.from_numpy(np.stack([x for x, _ in samples])), torch.nn.utils.rnn.pad_sequence(ids, True)


def _tokenizer() -> Any:
    from sensorium.sequence.tokenizer import Tokenizer

    return Tokenizer.load("starter-4k")


def ours(root: Path, workers: int) -> Iterator[int]:
    from sensorium import recipes
    from sensorium.config import DataConfig, SourceConfig
    from sensorium.data.loader import Loader

    data = DataConfig(
        sources=(SourceConfig(path=str(root / "shards"), weight=1, templates={"caption": 1}),),
        samples_per_step=BATCH,
        augment=0.0,
        cache_mb=0,  # every row is decoded, as by the peers
        num_workers=workers,
    )
    loader = Loader(data, recipes.tiny().model, _tokenizer(), seed=0)
    num_steps = loader.sources[0].reader.num_rows // BATCH
    for _, batch in loader.stream(0, num_steps):
        yield batch.num_visits


def peer_webdataset(root: Path, workers: int, decode: Decode) -> Iterator[int]:
    import webdataset

    data = (
        webdataset.WebDataset(str(root / f"data-{{0..{NUM_TARS - 1}}}.tar"), shardshuffle=NUM_TARS)
        .shuffle(1000)
        .to_tuple("jpg", "txt")
        .map_tuple(decode, lambda text: text.decode())
        .batched(BATCH, collation_fn=collate, partial=False)
    )
    for pictures, _ in webdataset.WebLoader(data, batch_size=None, num_workers=workers):
        yield len(pictures)


def peer_datasets(root: Path, workers: int, decode: Decode) -> Iterator[int]:
    import datasets
    import torch

    datasets.disable_progress_bars()
    data = datasets.load_dataset(
        "parquet", data_dir=str(root / "plain"), split="train", cache_dir=str(root / "hub")
    )
    data = data.shuffle(seed=0)
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=BATCH,
        num_workers=workers,
        drop_last=True,
        collate_fn=functools.partial(_collate_rows, decode),
    )
    for pictures, _ in loader:
        yield len(pictures)


def _collate_rows(decode: Decode, rows: list[dict[str, Any]]) -> Any:
    return collate([(decode(row["image"]["bytes"]), row["text"]) for row in rows])


class _Memory:
    """Encoded pictures in memory; an item is a batch of arrays, nothing else."""

    def __init__(self, pictures: list[bytes], decode: Decode) -> None:
        self.pictures, self.decode = pictures, decode

    def __len__(self) -> int:
        return len(self.pictures) // BATCH

    def __getitem__(self, number: int) -> Any:
        import numpy as np
        import torch

        if number >= len(self):
            raise IndexError(number)
        some = self.pictures[number * BATCH : (number + 1) * BATCH]
        return torch.from_numpy(np.stack([self.decode(data) for data in some]))


def memory(root: Path, workers: int, decode: Decode) -> Iterator[int]:
    import pyarrow.parquet as pq
    import torch

    table = pq.read_table(root / "plain" / "train.parquet", columns=["image"])
    pictures = [row["bytes"] for row in table["image"].to_pylist()]
    for batch in torch.utils.data.DataLoader(_Memory(pictures, decode), batch_size=None, num_workers=workers):
        yield len(batch)


def measure(name: str, root: Path, workers: int) -> None:
    """Rows per second after the first batch, as JSON."""
    peers = {"webdataset": peer_webdataset, "datasets": peer_datasets, "memory": memory}
    decode = own if name.endswith(OWN) else plain
    # Everybody's imports happen before the clock starts, and count as memory for everybody.
    import torch

    torch.set_num_threads(1)
    batches = ours(root, workers) if name == "ours" else peers[name.removesuffix(OWN)](root, workers, decode)
    next(batches)
    started, rows = time.perf_counter(), 0
    for count in batches:
        rows += count
    print(json.dumps({"rows_per_s": rows / (time.perf_counter() - started), "rows": rows}))


def measure_resume(root: Path, share: float) -> None:
    """Seconds from nothing to the first batch at a place in the epoch."""
    from sensorium import recipes
    from sensorium.config import DataConfig, SourceConfig
    from sensorium.data.loader import Loader

    model, tokenizer = recipes.tiny().model, _tokenizer()
    data = DataConfig(
        sources=(SourceConfig(path=str(root), weight=1, templates={"text": 1}),), samples_per_step=BATCH
    )
    started = time.perf_counter()
    loader = Loader(data, model, tokenizer, seed=0)
    step = int(share * loader.sources[0].reader.num_rows / BATCH)
    next(loader.stream(step, step + 1))
    print(json.dumps({"seconds": time.perf_counter() - started, "rows": loader.sources[0].reader.num_rows}))


def main() -> None:
    from common import machine, report, result, run_alone

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = machine()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root, options.rows)
        write_million(root / "million")
        for workers in (0, 2):
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
            for run in range(options.runs):
                for name in NAMES if run % 2 == 0 else NAMES[::-1]:
                    found[name].append(run_alone(__file__, "--one", name, str(root), str(workers)))
            for peer in NAMES[1:]:
                for metric, unit in (("rows_per_s", "rows/s"), ("peak_mb", "MB")):
                    results.append(
                        result(
                            f"{metric}, {workers} workers, against",
                            unit,
                            [r[metric] for r in found["ours"]],
                            peer,
                            [r[metric] for r in found[peer]],
                        )
                    )
        for share in (0.0, 0.5, 0.99):
            seconds = [
                run_alone(__file__, "--resume", str(root / "million"), str(share))["seconds"]
                for _ in range(options.runs)
            ]
            results.append(result(f"first batch at {share:.0%} of {MILLION * 65_536:,} rows", "s", seconds))
    report(results, options.json, about)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--resume"]:
        measure_resume(Path(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
