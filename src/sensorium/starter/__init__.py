"""The embedded sample: real pictures, sounds, spoken prompts, questions and glosses, licensed row by row.

What may be trained on is decided here and nowhere else: `training_rows`. The two tests that training must
never see are `style_test_rows` and `concept_test_rows`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

DATA_DIR = Path(__file__).resolve().parent / "data"
# The model that ``sm.load()`` gives, by the project's own recipe.
STARTER_MODEL = Path(__file__).resolve().parent / "model"

# A whole drawing style is held out: no training recipe lists it, whatever the concept.
TEST_STYLE = "openmoji"
TRAIN_STYLES = ("fluent", "noto")
PICTURE_SOURCES = (*TRAIN_STYLES, TEST_STYLE)
SOUND_SOURCES = ("scratch", "sonic-pi")
SPEECH_SOURCES = ("asterisk-en", "asterisk-fr")
TRAIN_SOURCES = (*TRAIN_STYLES, "openclipart", *SOUND_SOURCES, *SPEECH_SOURCES, "easy-vqa", "wordnet")
SOURCES = (*TRAIN_SOURCES, TEST_STYLE)


def starter_sources(root: Path = DATA_DIR) -> dict[str, Path]:
    """Return the Parquet file of each source of the sample.

    Raises:
        FileNotFoundError: a source is missing, so the sample was not built or not installed whole.
    """
    paths = {source: root / source / "data.parquet" for source in SOURCES}
    for source, path in paths.items():
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: the sample of {source!r} is missing; reinstall the package, or build it with "
                "`python -m sensorium.starter.builder --help`"
            )
    return paths


def load_table(*sources: str, root: Path = DATA_DIR) -> pa.Table:
    """Return the rows of some sources as one table, in the order given; all sources when none is named."""
    import pyarrow

    from sensorium.data.shards import read_shard

    paths = starter_sources(root)
    unknown = [source for source in sources if source not in paths]
    if unknown:
        raise ValueError(f"unknown source {unknown[0]!r}; the sources are {', '.join(SOURCES)}")
    return pyarrow.concat_tables([read_shard(paths[source]) for source in sources or SOURCES])


def training_rows(table: pa.Table) -> pa.Table:
    """Return the rows that may be trained on: the training split of the sources meant for training."""
    return _select(table, TRAIN_SOURCES, split="train")


def validation_rows(table: pa.Table) -> pa.Table:
    """Return the rows for choosing settings: the validation split of the sources meant for training."""
    return _select(table, TRAIN_SOURCES, split="validation")


def style_test_rows(table: pa.Table) -> pa.Table:
    """Return the style test: concepts that training knows, in the drawing style it has never seen."""
    return _select(table, (TEST_STYLE,), split="train")


def concept_test_rows(table: pa.Table) -> pa.Table:
    """Return the concept test: pictures of concepts that training has never seen, in any style."""
    return _select(table, PICTURE_SOURCES, split="test")


def _select(table: pa.Table, sources: tuple[str, ...], *, split: str) -> pa.Table:
    import pyarrow
    import pyarrow.compute as pc

    in_sources = pc.is_in(table["source"], value_set=pyarrow.array(sources))
    return table.filter(pc.and_(in_sources, pc.equal(table["split"], split)))
