"""No recipe trains on what the two tests ask for."""

import threading
import time

import pytest

from sensorium import recipes
from sensorium.data.loader import Loader
from sensorium.data.splits import split_of
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.starter import TEST_STYLE, concept_test_rows, load_table, style_test_rows, training_rows


@pytest.mark.parametrize("name", recipes.EMBEDDED)
def test_no_test_concept_and_no_test_style_is_in_training(name: str) -> None:
    config = recipes.get(name)
    loader = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0)
    trained = {row["id"]: row for source in loader.sources for row in source.reader.rows()}
    table = load_table()
    assert trained.keys() <= set(training_rows(table)["id"].to_pylist())
    assert not trained.keys() & set(style_test_rows(table)["id"].to_pylist())
    assert not trained.keys() & set(concept_test_rows(table)["id"].to_pylist())
    assert all(row["source"] != TEST_STYLE for row in trained.values())
    concepts = {row["concept"] for row in trained.values() if row["concept"]}
    # Prompts, of which the encoder alone is trained, have none.
    assert bool(concepts) == (config.train.trained == "all")
    assert not {concept for concept in concepts if split_of(concept) == "test"}
    # The check can fail: the held-out rows are really there and would be found.
    assert concept_test_rows(table).num_rows >= 60
    assert style_test_rows(table).num_rows >= 400


def test_batches_are_a_function_of_their_number() -> None:
    config = recipes.nano()
    first, second = (
        Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0) for _ in range(2)
    )
    first.batch(0)
    late, fresh = first.batch(3), second.batch(3)
    assert late.sample_ids == fresh.sample_ids
    assert late.token_ids_BT.equal(fresh.token_ids_BT)
    for name, media in fresh.context.items():
        assert late.context[name].arrays_NCHW.equal(media.arrays_NCHW)
    assert first.batch(4).sample_ids != late.sample_ids


def test_leaving_a_stream_early_never_waits_for_good() -> None:
    """At its end too, with the queue full: where a time budget stops a run just before its last step."""
    config = recipes.nano()
    loader = Loader(config.data, config.model, Tokenizer.load(config.tokenizer), seed=0)
    stream = loader.stream(0, 3)
    next(stream)
    time.sleep(3)  # the two other batches fill the queue, and the end is waiting
    closing = threading.Thread(target=stream.close, daemon=True)
    closing.start()
    closing.join(timeout=10)
    assert not closing.is_alive()
