"""The table of peers: its figures on answers whose score is known, and the whole of it with ours alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.peers import figures
from benchmarks.peers.figures import RealPictures, picture_figures, pixel_view, retrieval_figures
from benchmarks.peers.learning import learn
from benchmarks.peers.llava import padded
from benchmarks.peers.ours import Ours, sources_of
from benchmarks.peers.work import JOINT, JOINT_SHARES, Asked, held_out, picture_and_tokens, run_config
from torch import nn

from sensorium.data.loader import Loader
from sensorium.model.flops import StepFlops
from sensorium.sequence.tokenizer import Tokenizer

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"
TOKENIZER = Tokenizer.load("starter-1k")


@pytest.fixture(scope="module")
def asked() -> Asked:
    return Asked.load(16)


def values(figure: figures.Figure, name: str) -> float:
    return figure.interval(name).estimate


def test_right_answers_score_all_and_wrong_ones_nothing(asked: Asked) -> None:
    n = len(asked.names)
    shifted = [*asked.names[1:], asked.names[0]]
    texts = {
        "right": [
            {"names": np.array(asked.names), "answers": np.array(asked.answers), "blind": np.array(["?"] * n)}
        ],
        "wrong": [
            {"names": np.array(shifted), "answers": np.array(["?"] * n), "blind": np.array(asked.answers)}
        ],
    }
    named, _, questions = figures.text_figures(texts, asked)
    for figure in (named, questions):
        assert (values(figure, "right"), values(figure, "wrong")) == (100, 0)
        difference = figure.difference("right", "wrong")
        assert difference is not None
        assert difference.estimate == 100
    assert values(questions, "wrong, blind") == 100
    one = retrieval_figures(
        {"right": [{"similarity": np.eye(n)}], "wrong": [{"similarity": -np.eye(n)}]}, asked
    )
    for figure in one:
        assert (values(figure, "right"), values(figure, "wrong")) == (100, 0)
        assert values(figure, "chance") == pytest.approx(100 / n)
    (speech,) = figures.speech_figures({"all": [{"heard": np.array(asked.said)}]}, asked)
    assert values(speech, "all") == 0


def test_seeds_are_averaged_sample_by_sample(asked: Asked) -> None:
    n = len(asked.names)
    half = np.array([1.0 if place % 2 else -1.0 for place in range(n)])
    seeds = [{"similarity": np.eye(n)}, {"similarity": np.diag(half)}]
    figure = retrieval_figures({"two": seeds}, asked)[0]
    assert figure.by_seed("two") == [100, 50]
    assert values(figure, "two") == 75


def test_real_pictures_are_at_no_distance_from_themselves(asked: Asked) -> None:
    real = RealPictures.of(asked.names)
    views = {name: pixel_view(pictures) for name, pictures in (("one", real.one), ("other", real.other))}
    noise = np.random.default_rng(0).integers(0, 256, (len(real.names), 32, 32, 3), dtype=np.uint8)
    view = views | {"copies": [views["one"]], "noise": [pixel_view(list(noise))]}
    distance, right = picture_figures({"copies": [{}], "noise": [{}]}, real, {"pixels": view})
    assert values(distance, "copies") == pytest.approx(0, abs=1e-6)
    assert values(distance, "noise") > values(distance, "real, other style") > 0
    assert values(right, "copies") == 100
    assert values(right, "noise") < values(right, "real, other style")


def test_every_row_gets_its_share_of_the_joint_models_operations() -> None:
    sources = sources_of(JOINT, TOKENIZER)
    config = run_config(JOINT, sources, lr=0.0, batch=96)
    loader = Loader(config.data, config.model, TOKENIZER, seed=0)
    by_path: dict[str, float] = {}
    for step in range(4):
        documents = loader.samples(step).documents
        learner = Ours(config, TOKENIZER)
        for source in {document.task.split("/")[0] for document in documents}:
            own = [d for d in documents if d.task.split("/")[0] == source]
            by_path[source] = by_path.get(source, 0.0) + StepFlops(config.model)(learner.collate(own))
    total = sum(by_path.values())
    found = (
        (by_path["noto"] + by_path["fluent"]) / total,
        by_path["easy-vqa"] / total,
        by_path["asterisk-en"] / total,
    )
    wanted = [share / sum(s for _, s in JOINT_SHARES) for _, share in JOINT_SHARES]
    assert found == pytest.approx(wanted, abs=0.06)


def test_nothing_that_is_asked_chooses_settings() -> None:
    for row in ("text", "pictures", JOINT):
        config = run_config(row, sources_of(row, TOKENIZER), lr=0.0, batch=64)
        documents = held_out(row, config, TOKENIZER)
        assert documents
        for document in documents:
            source, _, rest = document.sample_id.partition("/")
            assert source in ("openclipart", "noto", "fluent", "easy-vqa")
            assert source != "easy-vqa" or not rest.startswith("test")
    # Of easy-vqa its own split "validation", whose pictures are not in "test".
    asked = {image.pixels().tobytes() for image in Asked.load().question_pictures}
    config = run_config("text", sources_of("text", TOKENIZER), lr=0.0, batch=64)
    assert len(asked) > 100
    assert all(d.sample_id.split("/")[1] != "test" for d in held_out("text", config, TOKENIZER))


def test_documents_reach_the_peers_whole() -> None:
    config = run_config("text", sources_of("text", TOKENIZER), lr=0.0, batch=32)
    documents = Loader(config.data, config.model, TOKENIZER, seed=0).samples(0).documents
    rows = [picture_and_tokens(document, TOKENIZER) for document in documents]
    inputs = padded(rows, 16, image_token=7)
    pictures = sum(picture is not None for picture, _, _ in rows)
    assert int((inputs["input_ids"] == 7).sum()) == 16 * pictures == 16 * len(inputs["pixel_values"])
    for row, (picture, ids, supervised) in enumerate(rows):
        start = 0 if picture is None else 16
        assert inputs["input_ids"][row, start : start + len(ids)].tolist() == ids
        labels = inputs["labels"][row]
        assert labels[labels >= 0].tolist() == [i for i, s in zip(ids, supervised, strict=True) if s]
        assert int(inputs["attention_mask"][row].sum()) == start + len(ids)


def test_the_budget_is_spent_and_no_more_than_a_step_over() -> None:
    class Line:
        """A linear layer whose operations are known: forward and the gradient of its weights, of 64 rows."""

        def __init__(self) -> None:
            self.model = nn.Linear(8, 8, bias=False)

        def collate(self, documents: Any) -> torch.Tensor:
            return torch.ones(64, 8)

        def loss(self, batch: torch.Tensor, seed: int) -> torch.Tensor:
            return self.model(batch).square().mean()

        def flops(self, batch: torch.Tensor) -> tuple[int, ...]:
            return tuple(batch.shape)

    config = run_config("retrieval", sources_of("retrieval", TOKENIZER), lr=1e-2, batch=16, optimizer="adamw")
    loader = Loader(config.data, config.model, TOKENIZER, seed=0)
    a_step = 2 * 2 * 64 * 8 * 8
    done = learn(Line(), loader, config.train, 2.5 * a_step / 1e12)
    assert (done["steps"], done["samples"]) == (3, 48)
    assert done["tflop"] == pytest.approx(3 * a_step / 1e12)
    assert done["optimizer_share"] == 0


@pytest.mark.slow
def test_the_table_with_ours_alone_goes_on_where_it_was(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--quick", "--no-joint", "--rows", "retrieval", "pictures"]
    words += ["--jobs", "1", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "table.json")]
    first = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
    table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert "R@1 picture -> word" in first.stdout
    assert {r["peer"] for r in table["results"]} >= {"nearest neighbour, 8 px", "chance", "real, other style"}
    for line in table["results"]:
        assert line["interval"]["low"] <= line["ours"] <= line["interval"]["high"]
    done = (tmp_path / "out" / "done.jsonl").read_text(encoding="utf-8")
    assert len(done.splitlines()) == 4  # one setting tried and one run, for two rows
    # A line that a kill cut short is done again, and gives the same; nothing else is.
    (tmp_path / "out" / "done.jsonl").write_text(done[:-20], encoding="utf-8")
    second = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
    assert second.stdout.count("lr 0.0015, batch") - first.stdout.count("lr 0.0015, batch") < 0
    again = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert [r["ours"] for r in again["results"]] == [r["ours"] for r in table["results"]]
