"""The tokenizers of the recipes, learned from the words of training rows.

Run ``python -m sensorium.starter.builder.tokenizers`` after the embedded sample was rebuilt, and the same with the
folder of the full starter data for the tokenizer of the larger recipes.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset

from sensorium.sequence import tokenizer
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.starter import load_table, training_rows

SIZES = {"starter-1k": 1024, "starter-4k": 4096}
FULL_SIZES = {"starter-8k": 8192}
# Names of emoji come in 158 locales: with all of them, hardly a merge would be left for sentences.
LANGUAGES = ("en", "de", "es", "fr", "it", "nl", "pt", "ru")


def texts_of(rows: Iterable[dict[str, Any]], languages: tuple[str, ...] | None = None) -> Iterator[str]:
    """Names, titles, prompts, questions, answers, glosses, code."""
    for row in rows:
        names = dict(row["names"] or {})
        yield from (name for language, name in names.items() if languages is None or language in languages)
        if row["text"]:
            yield row["text"]
        for message in row["messages"] or []:
            yield from (part["text"] for part in message["content"] if part["text"])


def full_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Words of the training rows of every source, media left on the disk."""
    for source in sorted(path for path in folder.iterdir() if any(path.glob("*.parquet"))):
        data = pyarrow.dataset.dataset(sorted(map(str, source.glob("*.parquet"))), format="parquet")
        columns, split = ["text", "names", "messages"], pyarrow.dataset.field("split") == "train"
        for batch in data.to_batches(columns=columns, filter=split):
            yield from batch.to_pylist()


def main(arguments: list[str]) -> None:
    """Write ``sequence/starter-*.json``."""
    if arguments:
        texts, sizes = list(texts_of(full_rows(Path(arguments[0])), LANGUAGES)), FULL_SIZES
    else:
        texts, sizes = list(texts_of(training_rows(load_table()).to_pylist(maps_as_pydicts="strict"))), SIZES
    for name, size in sizes.items():
        path = tokenizer.BUILT_IN[name]
        Tokenizer.train(texts, vocab_size=size).save(path)
        learned = Tokenizer.load(name)
        sample = texts[:: max(1, len(texts) // 50_000)]
        num_tokens = sum(len(learned.encode(text)) for text in sample)
        print(
            f"{name}: {learned.vocab_size} ids, {sum(len(t.encode()) for t in sample) / num_tokens:.2f} bytes a token"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
