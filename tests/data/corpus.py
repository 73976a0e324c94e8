"""Shards for tests: real pictures, and many short texts."""

from pathlib import Path

from sensorium import recipes
from sensorium.config import DataConfig, SourceConfig
from sensorium.data.loader import Loader
from sensorium.data.writer import ShardWriter
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.starter import load_table


def write_pictures(folder: Path, num_rows: int = 200) -> Path:
    """Pictures of the embedded data, in files of their splits."""
    with ShardWriter(folder, shard_bytes=100_000) as writer:
        for number, row in enumerate(
            load_table("noto").slice(0, num_rows).to_pylist(maps_as_pydicts="strict")
        ):
            writer.write(row, number)
    return folder


def write_texts(folder: Path, num_rows: int = 1000) -> Path:
    """Rows without media."""
    about = {"split": "train", "source": "numbers", "license": "CC0-1.0", "attribution": "nobody"}
    with ShardWriter(folder) as writer:
        for number in range(num_rows):
            writer.write({"id": f"text-{number}", "text": f"the number {number}", **about}, number)
    return folder


def mixture(pictures: str, texts: str, **options: object) -> DataConfig:
    """Two sources, three to one."""
    return DataConfig(
        sources=(
            SourceConfig(path=pictures, weight=3, templates={"pair": 2, "caption": 1}),
            SourceConfig(path=texts, weight=1, templates={"text": 1}),
        ),
        samples_per_step=24,
        **options,  # type: ignore[arg-type]
    )


def loader(config: DataConfig, *, rank: int = 0, world_size: int = 1, seed: int = 0) -> Loader:
    """With the model and tokenizer of `nano`."""
    nano = recipes.nano()
    tokenizer = Tokenizer.load(nano.tokenizer)
    return Loader(config, nano.model, tokenizer, seed, rank=rank, world_size=world_size)
