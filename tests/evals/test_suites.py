"""Suites with subjects whose figures are known, killed and resumed, and what they refuse."""

import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensorium.data.schema import message
from sensorium.data.shards import write_shard
from sensorium.evals.metrics.answers import vqa_accuracy
from sensorium.evals.results import Result, load_results, save_results
from sensorium.evals.runner import Options
from sensorium.evals.suites import evaluate
from tests.evals.rows import (
    COLOURS,
    Seer,
    Sleeper,
    clip_rows,
    code_rows,
    picture_rows,
    question_rows,
    speech_rows,
)

FAST = Options(num_resamples=50, batch_size=4)


def by_metric(results: list[Result]) -> dict[str, Result]:
    return {result.metric: result for result in results}


@pytest.fixture
def questions(tmp_path: Path) -> str:
    write_shard(tmp_path / "data.parquet", [*question_rows("train", 8), *question_rows("test")])
    return str(tmp_path / "data.parquet")


def test_questions_and_their_baselines(questions: str, tmp_path: Path) -> None:
    (result,) = evaluate(Seer(), "vqa", questions, tmp_path, FAST).results
    assert (result.metric, result.value, result.n, result.split) == ("exact match", 1.0, 12, "test")
    assert result.prompt == "{question}"
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == (1, 1)
    shares = {name: value for name, value in result.baselines.items() if name != "control: shuffled labels"}
    assert shares == pytest.approx(
        {
            "blind (media removed)": 0.25,
            "chance": 0.25,
            "majority": 0.25,
            "majority of the same question": 0.25,
        }
    )
    assert result.baselines["control: shuffled labels"] < 0.7
    margin = result.margins["blind (media removed)"]
    assert margin.estimate == pytest.approx(0.75)
    assert margin.excludes_zero


def test_what_baselines_may_learn_from_is_named(questions: str, tmp_path: Path) -> None:
    reds = [row | {"id": f"red-{row['id']}"} for row in question_rows("train", 8)]
    for row in reds:
        row["messages"][1]["content"][0]["text"] = "red"
    write_shard(tmp_path / "other.parquet", reds)
    for known, majority in (
        ((str(tmp_path / "other.parquet"),), 0.25),
        (("none",), None),
        ((questions, questions), 0.25),
    ):
        options = Options(num_resamples=50, known=known)
        (result,) = evaluate(Sleeper(), "vqa", questions, tmp_path, options, overwrite=True).results
        assert result.baselines.get("majority") == majority
    (result,) = evaluate(
        Sleeper(), "vqa", questions, tmp_path, Options(split="train"), overwrite=True
    ).results
    assert "majority" not in result.baselines  # what is asked is never learned from


def test_chance_without_known_answers_is_any_of_those_asked_for(tmp_path: Path) -> None:
    options = Options(num_resamples=50, known=("none",))
    for suite, rows in (("vqa", question_rows("test", 8)), ("video", clip_rows("test"))):
        found = evaluate(Sleeper(), suite, rows, tmp_path, options)
        result = next(r for r in found.results if r.metric.startswith("exact match"))
        assert result.baselines["chance"] == pytest.approx(0.25)
        assert any("chance is any of the 4 right answers" in note for note in found.about["notes"])


def test_known_answers_hold_no_more_than_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    from sensorium.evals import cases

    monkeypatch.setattr(cases, "_MAX_KNOWN", 8)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Held(dict[str, Any]):
        __hash__ = object.__hash__

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal most
        for n in range(100):
            (row,) = code_rows("train", 1)
            held = Held(row | {"id": f"row-{n}"})
            held["messages"] = [row["messages"][0], message("assistant", f"code {n}")]
            alive.add(held)
            most = max(most, len(alive))
            yield held

    found = cases.known_answers(rows())
    assert most <= 12
    numbers = [int(example.answer.split()[1]) for example in found]
    assert 4 <= len(numbers) <= 8
    assert len({*np.diff(numbers)}) == 1
    assert numbers[-1] >= 80


def test_ten_answers_are_scored_by_the_owners_rule(tmp_path: Path) -> None:
    rows = question_rows("test", people=True)
    evaluation = evaluate(Sleeper(), "vqa", rows, tmp_path, FAST)
    (result,) = evaluation.results
    truths = [json.loads(row["metadata"]["answers"]) for row in rows]
    assert result.metric == "VQA accuracy"
    assert result.value == pytest.approx(np.mean([vqa_accuracy("blue", truth) for truth in truths]))
    assert "majority" not in result.baselines  # rows alone hold nothing to learn from
    assert dict(evaluation.scored[0].lines)["right"] == "red (8), dark (1), A RED (1)"


def test_chance_is_the_mean_score_of_all_options(tmp_path: Path) -> None:
    rows = question_rows("test", 4)
    for row in rows:  # "The RED!" is right where "red" is
        row["messages"][1] = message("assistant", f"The {row['messages'][1]['content'][0]['text'].upper()}!")
    write_shard(tmp_path / "data.parquet", [*question_rows("train", 8), *rows])
    data = str(tmp_path / "data.parquet")
    (result,) = evaluate(Sleeper(), "vqa", data, tmp_path, FAST).results
    assert result.baselines["chance"] == pytest.approx(1 / 4)
    people = question_rows("test", people=True)
    write_shard(tmp_path / "data.parquet", [*question_rows("train", 8), *people])
    (result,) = evaluate(Sleeper(), "vqa", data, tmp_path, FAST, overwrite=True).results
    truths = [json.loads(row["metadata"]["answers"]) for row in people]
    wanted = np.mean([vqa_accuracy(option, truth) for option in COLOURS for truth in truths])
    assert result.baselines["chance"] == pytest.approx(wanted)


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    seer = Seer()
    options = Options(num_resamples=50, prompt="Question: {question} Answer:")
    evaluate(seer, "vqa", question_rows("test", 4), tmp_path, options)
    assert seer.asked[0][-1] == "Question: what colour is it? Answer:"
    assert seer.asked[-1] == ("Question: what colour is it? Answer:",)


def test_retrieval_in_both_directions(tmp_path: Path) -> None:
    write_shard(tmp_path / "data.parquet", [*picture_rows("train"), *picture_rows("test")])
    found = by_metric(evaluate(Seer(), "retrieval", str(tmp_path), tmp_path, FAST).results)
    assert found["R@1 media -> text"].value == found["R@1 text -> media"].value == 1
    assert found["median rank text -> media"].value == 1
    beside = found["R@1 media -> text"].baselines
    assert beside["chance"] == 0.25
    assert {beside[f"nearest neighbour, {size} px"] for size in (8, 16, 64)} == {1.0}
    constant = by_metric(
        evaluate(Sleeper(), "retrieval", str(tmp_path), tmp_path, FAST, overwrite=True).results
    )
    assert constant["R@1 media -> text"].value == pytest.approx(0.25)
    assert constant["R@1 text -> media"].baselines["control: shuffled labels"] == pytest.approx(0.25)


def test_several_captions_and_concepts(tmp_path: Path) -> None:
    rows = picture_rows("test", 4)
    rows[0]["metadata"] = {"captions": json.dumps(["a crimson square", "scarlet"])}
    rows[1] |= {"concept": "plant"}
    rows[2] |= {"concept": "plant"}
    rows.append(rows[3] | {"id": "again", "text": "ash"})
    evaluation = evaluate(Seer(), "retrieval", rows, tmp_path, FAST)
    found = by_metric(evaluation.results)
    assert found["R@1 media -> text"].n == 4  # the same picture twice is one
    assert found["R@1 text -> media"].n == 7
    # Independent are red with its captions, the plant, and grey.
    for metric in ("R@1 media -> text", "R@5 text -> media"):
        interval = found[metric].interval
        assert interval is not None
        assert interval.num_units == 3
    # green and blue answer each other; the words that the seer does not know are level with all.
    assert found["R@1 media -> text"].value == 1
    assert 4 / 7 < found["R@1 text -> media"].value < 1
    right = {case.id: dict(case.lines)["right"] for case in evaluation.scored}
    assert right == {
        "test-0": "red; a crimson square; scarlet",
        "test-1": "green; blue",
        "test-2": "green; blue",
        "test-3": "grey; ash",
    }


def test_speech_and_its_baselines(tmp_path: Path) -> None:
    write_shard(tmp_path / "data.parquet", [*speech_rows("train"), *speech_rows("test")])
    evaluation = evaluate(Seer("thank you"), "asr", str(tmp_path), tmp_path, FAST)
    found = by_metric(evaluation.results)
    assert found["WER"].value == found["CER"].value == 0
    assert (found["WER"].normalizer, found["WER"].prompt) == ("basic", "transcribe")
    assert found["WER"].baselines["blind (sound removed)"] == 1
    assert found["WER"].baselines["nearest neighbour, mel"] == 0  # the very same tones
    assert found["WER"].baselines["majority"] == pytest.approx(5 / 18)
    assert not found["WER"].higher_is_better
    plain = evaluate(Seer(), "asr", str(tmp_path), tmp_path, Options(normalizer="plain"), overwrite=True)
    assert by_metric(plain.results)["WER"].value == pytest.approx(2 / 3)  # "Tone" and "3."


def test_sounds_that_a_model_does_not_hear_whole_are_told(tmp_path: Path) -> None:
    rows = [*speech_rows("test", 2), *[r | {"id": "long"} for r in speech_rows("test", 1, duration_s=1.5)]]
    (note,) = evaluate(Seer(), "asr", rows, tmp_path, FAST).about["notes"]
    assert note.startswith("1 of 3 sounds last longer than the 1.00 s")


@contextmanager
def killed_after(number: int) -> Iterator[Any]:
    left = number

    def step() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    yield step


@pytest.mark.parametrize("num_before", [0, 3, 6, 11])
@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_evaluation_goes_on(questions: str, tmp_path: Path, num_before: int, torn: bool) -> None:
    whole = evaluate(Seer(), "vqa", questions, tmp_path, FAST)
    lines = (tmp_path / "vqa.answers.jsonl").read_bytes()
    (tmp_path / "vqa.answers.jsonl").unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluate(Seer(), "vqa", questions, tmp_path, FAST, bar=lambda what, total: killed_after(num_before))
    path = tmp_path / "vqa.answers.jsonl"
    if torn:  # the process died while it wrote
        path.write_bytes(path.read_bytes()[:-7])
    after = Seer()
    again = evaluate(after, "vqa", questions, tmp_path, FAST)
    assert [r.as_dict() for r in again.results] == [r.as_dict() for r in whole.results]
    # Twelve questions, seen and blind, in batches of four: whole batches are not asked again.
    assert len(after.asked) == 24 - 4 * ((num_before // 4 + 1) - torn)
    if not torn:
        assert path.read_bytes() == lines
    third = Seer()
    evaluate(third, "vqa", questions, tmp_path, FAST)
    assert third.asked == []


def test_answers_of_another_run_are_not_taken(questions: str, tmp_path: Path) -> None:
    evaluate(Seer(), "vqa", questions, tmp_path, FAST)
    with pytest.raises(
        ValueError, match=r"holds answers with model 'seer', and now it is 'sleeper'; add --overw"
    ):
        evaluate(Sleeper(), "vqa", questions, tmp_path, FAST)
    with pytest.raises(ValueError, match="holds answers with seed 0, and now it is 1"):
        evaluate(Seer(), "vqa", questions, tmp_path, Options(batch_size=4, seed=1))
    (result,) = evaluate(Sleeper(), "vqa", questions, tmp_path, FAST, overwrite=True).results
    assert result.value == 0.25
    (tmp_path / "vqa.answers.jsonl").write_text("not ours\n")
    with pytest.raises(ValueError, match="line 1 is no answer"):
        evaluate(Seer(), "vqa", questions, tmp_path, FAST)


def test_two_runs_give_the_same_figures(questions: str, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = evaluate(Seer(), "vqa", questions, tmp_path / name, FAST)
        save_results(tmp_path / name / "vqa.json", found.results, found.about)
        files.append((tmp_path / name / "vqa.json").read_bytes())
    assert files[0] == files[1]
    assert load_results(tmp_path / "a" / "vqa.json") == found.results
    with pytest.raises(ValueError, match="is not a file of results"):
        load_results(tmp_path / "a" / "vqa.answers.jsonl")


@pytest.mark.parametrize(
    ("suite", "change", "message"),
    [
        ("vqa", {"messages": None, "images": None, "text": "x"}, "holds no question with a text answer"),
        ("vqa", {"metadata": {"answers": "red, blue"}}, "expected a JSON list"),
        ("asr", {}, "has no audio with text"),
        ("retrieval", {}, "has no picture or sound with text"),
        ("pictures", {}, "known are vqa, retrieval, asr"),
    ],
)
def test_other_data_are_refused_by_name(
    tmp_path: Path, suite: str, change: dict[str, Any], message: str
) -> None:
    rows = [row | change for row in question_rows("test", 2)]
    with pytest.raises(ValueError, match=message):
        evaluate(Seer(), suite, rows, tmp_path, FAST)


def test_a_broken_medium_is_told_with_its_sample(tmp_path: Path) -> None:
    rows = question_rows("test", 6)
    rows[4]["images"] = [{"bytes": b"no picture", "path": "x.png"}]
    with pytest.raises(ValueError, match=r"'test-4'.*expected a picture"):
        evaluate(Seer(), "vqa", rows, tmp_path, FAST)
    rows[4]["id"] = rows[3]["id"]
    with pytest.raises(ValueError, match="two samples have the id"):
        evaluate(Seer(), "vqa", rows, tmp_path, FAST)
    with pytest.raises(ValueError, match="there are no rows"):
        evaluate(Seer(), "vqa", [], tmp_path, FAST)


def test_a_limit_reads_only_the_blocks_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensorium.data.reader import Reader
    from sensorium.evals.cases import stream_rows

    for number in range(4):
        rows = [row | {"id": f"{number}-{row['id']}"} for row in question_rows("test", 3)]
        write_shard(tmp_path / f"{number}.parquet", rows)
    read: list[int] = []
    block = Reader._read
    monkeypatch.setattr(Reader, "_read", lambda self, number: read.append(number) or block(self, number))
    rows = list(stream_rows(str(tmp_path), "test"))
    assert len(rows) == 12
    read.clear()
    assert list(stream_rows(str(tmp_path), "test", limit=2)) == [rows[0], rows[6]]
    assert len(read) == 2


def test_questions_without_media_are_clusters_of_their_own() -> None:
    from sensorium.data.schema import message
    from sensorium.evals.cases import question_cases

    rows = [
        {"id": f"q{n}", "messages": [message("user", f"what is {n}?"), message("assistant", str(n))]}
        for n in range(3)
    ]
    assert len({case.media_key for case in question_cases(rows)}) == 3


def test_a_limit_is_spread_over_the_data(questions: str, tmp_path: Path) -> None:
    found = evaluate(Seer(), "vqa", questions, tmp_path, Options(limit=4, num_resamples=50))
    assert [case.id for case in found.scored] == ["test-0", "test-3", "test-6", "test-9"]
    most = evaluate(Seer(), "vqa", question_rows("validation"), tmp_path, Options(limit=9), overwrite=True)
    assert [case.id for case in most.scored][-2:] == ["validation-9", "validation-10"]
    assert most.results[0].split == most.about["split"] == "validation"
