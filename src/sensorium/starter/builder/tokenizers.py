"""The tokenizers of the recipes, learned from the words of the embedded training rows.

Run ``python -m sensorium.starter.builder.tokenizers`` after the sample was rebuilt.
"""

from collections.abc import Iterator

from sensorium.sequence import tokenizer
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.starter import load_table, training_rows

SIZES = {"starter-1k": 1024, "starter-4k": 4096}


def training_texts() -> Iterator[str]:
    """Every text that training may see: names in all languages, titles, prompts, questions, answers, glosses."""
    for row in training_rows(load_table()).to_pylist(maps_as_pydicts="strict"):
        yield from (row["names"] or {}).values()
        if row["text"]:
            yield row["text"]
        for message in row["messages"] or []:
            yield from (part["text"] for part in message["content"] if part["text"])


def main() -> None:
    """Write ``sequence/starter-*.json``."""
    texts = list(training_texts())
    for name, size in SIZES.items():
        path = tokenizer.BUILT_IN[name]
        Tokenizer.train(texts, vocab_size=size).save(path)
        learned = Tokenizer.load(name)
        num_tokens = sum(len(learned.encode(text)) for text in texts)
        print(
            f"{name}: {learned.vocab_size} ids, {sum(len(t.encode()) for t in texts) / num_tokens:.2f} bytes a token"
        )


if __name__ == "__main__":
    main()
