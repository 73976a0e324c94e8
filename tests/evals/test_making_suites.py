"""Suites of what is made (speech, pictures, edits, code) and of clips and regions, by subjects whose figures are known."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensorium.data.shards import write_shard
from sensorium.evals.judges import Judges
from sensorium.evals.results import Result
from sensorium.evals.runner import Bar, Options, Subject
from sensorium.evals.suites import evaluate
from tests.evals.rows import (
    Artist,
    Coder,
    Colours,
    Ear,
    Idler,
    Seer,
    clip_rows,
    code_rows,
    edit_rows,
    picture_rows,
    place_of,
    question_rows,
    region_rows,
    speech_rows,
)

FAST = Options(num_resamples=50, batch_size=4)


def by_metric(results: list[Result]) -> dict[str, Result]:
    return {result.metric: result for result in results}


def test_speech_is_judged_by_other_ears(tmp_path: Path) -> None:
    rows = [row | {"language": "en"} for row in speech_rows("test", 3)]
    ear = Ear()
    found = evaluate(Artist(), "tts", rows, tmp_path, FAST, judges=Judges(recognizer=ear))
    wer = by_metric(found.results)["WER, heard by ear"]
    assert wer.value == wer.baselines["ceiling: real recordings"] == 0
    assert wer.baselines["ceiling: real through the vocoder"] == 0
    assert wer.baselines["control: shuffled labels"] > 0
    assert (wer.prompt, wer.normalizer, wer.unit) == ("say {text}", "basic", "rate")
    assert ear.languages == ["en"] * 9
    assert by_metric(found.results)["mel distance"].value < 0.02  # 16 bits
    assert by_metric(found.results)["length off"].value == pytest.approx(0, abs=1e-3)
    assert found.about["judges"] == ["ear 6"]
    assert [len(case.media) for case in found.scored] == [3] * 3
    # In another language it is heard anew, and not spoken again.
    artist, french = Artist(), [row | {"language": "fr"} for row in rows]
    evaluate(artist, "tts", french, tmp_path, FAST, judges=Judges(recognizer=ear))
    assert (artist.asked, ear.languages[9:]) == ([], ["fr"] * 9)
    lazy = evaluate(Idler(), "tts", rows, tmp_path, FAST, judges=Judges(recognizer=Ear()), overwrite=True)
    assert by_metric(lazy.results)["WER, heard by ear"].value == pytest.approx(2 / 9)  # two numbers wrong


def test_without_a_recogniser_it_says_what_is_missing_and_a_later_one_goes_on(tmp_path: Path) -> None:
    rows = speech_rows("test", 2)
    found = evaluate(Artist(), "tts", rows, tmp_path, FAST)
    assert [result.metric for result in found.results] == ["mel distance", "length off"]
    (note,) = (note for note in found.about["notes"] if "error rates" in note)
    assert "--recognizer FOLDER" in note
    again = Artist()
    with_ear = evaluate(again, "tts", rows, tmp_path, FAST, judges=Judges(recognizer=Ear()))
    assert again.asked == []  # nothing is spoken twice
    assert with_ear.results[-2:] == found.results


def test_drawings_beside_real_pictures(tmp_path: Path) -> None:
    write_shard(tmp_path / "data.parquet", [*picture_rows("train"), *picture_rows("test")])
    judges = Judges(features=Colours())
    found = evaluate(Artist(), "image", str(tmp_path), tmp_path, FAST, judges=judges)
    figures = by_metric(found.results)
    named = figures["R@1 drawing -> text, by the model itself"]
    assert named.value == named.baselines["ceiling: real pictures"] == 1
    assert named.baselines["chance"] == 0.25
    views = ("8 px", "16 px", "64 px", "the model's own features", "features of colours")
    for view in views:
        nearest = figures[f"nearest real picture is right, {view}"]
        assert (nearest.value, nearest.baselines["chance"]) == (1, 0.25)
        # Known pictures are the very ones, and look so in every view.
        assert nearest.baselines["ceiling: other real pictures of the same (n 4)"] == 1
    for view in views[3:]:
        distance = figures[f"Frechet distance, {view}"]
        assert distance.value == pytest.approx(0, abs=1e-6)  # it draws the very pictures
        assert distance.baselines["ceiling: other real pictures"] == pytest.approx(0, abs=1e-6)
        assert distance.interval is None
        assert not distance.higher_is_better
    assert figures["Frechet distance, features of colours"].baselines["noise"] > 0.01
    lazy = by_metric(evaluate(Idler(), "image", str(tmp_path), tmp_path, FAST, overwrite=True).results)
    assert lazy["R@1 drawing -> text, by the model itself"].value == pytest.approx(0.25)
    assert lazy["nearest real picture is right, 64 px"].value == 0.25  # one grey page is near to one picture
    assert "features of colours" not in " ".join(lazy)


def test_one_picture_has_no_frechet_distance(tmp_path: Path) -> None:
    found = evaluate(Artist(), "image", picture_rows("test", 1), tmp_path, FAST)
    assert not any(result.metric.startswith("Frechet") for result in found.results)
    assert any("needs pictures of at least 2 texts, and there is 1" in note for note in found.about["notes"])


def test_other_known_pictures_are_looked_at_anew(tmp_path: Path) -> None:
    names = []
    for name, num in (("a", 4), ("b", 8)):
        rows = [row | {"id": f"{name}-{row['id']}"} for row in picture_rows("train", num)][-4:]
        write_shard(tmp_path / f"{name}.parquet", rows)
        names.append(str(tmp_path / f"{name}.parquet"))
    (tmp_path / "asked").mkdir()
    write_shard(tmp_path / "asked" / "data.parquet", picture_rows("test"))

    def ceiling(known: str, *, overwrite: bool) -> float:
        options = Options(num_resamples=50, known=(known,))
        judges = Judges(features=Colours())
        data, artist = str(tmp_path / "asked"), Artist()
        found = evaluate(artist, "image", data, tmp_path, options, judges=judges, overwrite=overwrite)
        return by_metric(found.results)["Frechet distance, features of colours"].baselines[
            "ceiling: other real pictures"
        ]

    first = ceiling(names[0], overwrite=True)
    second = ceiling(names[1], overwrite=False)
    assert second != first
    assert second == ceiling(names[1], overwrite=True)


@pytest.mark.parametrize(
    ("suite", "rows", "column"),
    [
        ("retrieval", picture_rows("test"), "image"),
        ("video", clip_rows("test"), "video"),
        ("edit", edit_rows("test"), "images"),
    ],
)
def test_a_broken_medium_names_its_sample(
    tmp_path: Path, suite: str, rows: list[dict[str, Any]], column: str
) -> None:
    broken = {"bytes": b"no medium", "path": "x.png"}
    rows = [*rows[:2], rows[2] | {column: broken if column != "images" else [broken, broken]}, *rows[3:]]
    with pytest.raises(ValueError, match=r"sample 'test-2': .*expected a (picture|video)"):
        evaluate(Artist(), suite, rows, tmp_path, FAST)


def test_edits_inside_and_outside(tmp_path: Path) -> None:
    rows = edit_rows("test")
    found = evaluate(Artist(), "edit", rows, tmp_path, FAST)
    figures = by_metric(found.results)
    assert figures["nearer to the wanted picture than the source is"].value == 1
    assert figures["inside: error"].value == 0
    assert figures["outside: PSNR (at most 100)"].value == 100
    done = figures["inside: pixels changed as asked"]
    assert done.value == 1
    assert done.baselines["source unchanged"] == 0
    assert done.baselines["noise"] < 0.15
    assert figures["inside: error, swap"].n + figures["inside: error, recolour"].n == 5
    assert any(note.startswith("1 of 6 edits ask for no change") for note in found.about["notes"])
    lazy = by_metric(evaluate(Idler(), "edit", rows, tmp_path, FAST, overwrite=True).results)
    for result in lazy.values():
        assert result.value == result.baselines["source unchanged"]
    assert lazy["inside: error"].value > 0.3
    assert lazy["nearer to the wanted picture than the source is"].value == 0
    # The subject draws at the data's own size, so that its resolution costs nothing.
    assert lazy["inside: error"].baselines["ceiling: wanted at the answer's size"] == 0
    questions = [row | {"id": f"q-{row['id']}"} for row in question_rows("test", 2)]
    mixed = evaluate(Artist(), "edit", [*rows, *questions], tmp_path, FAST, overwrite=True)
    assert mixed.about["notes"][0].startswith("2 of 8 samples are not answered by a picture")


def test_clips_beside_one_frame(tmp_path: Path) -> None:
    write_shard(tmp_path / "data.parquet", [*clip_rows("train"), *clip_rows("test")])
    found = evaluate(Seer(blind="red"), "video", str(tmp_path), tmp_path, FAST)
    figures = by_metric(found.results)
    assert figures["R@1 media -> text"].value == 1
    assert figures["R@1 media -> text"].baselines["the model on one frame (the middle)"] == 1
    assert figures["R@1 media -> text"].baselines["chance"] == 0.25
    named = figures["exact match of the name"]
    assert (named.value, named.prompt) == (1, "what is this?")
    assert named.baselines["blind (media removed)"] == 0.25
    assert named.baselines["nearest neighbour, 16 px, one frame (the middle)"] == 1
    film = found.scored[0].media[0].pixels()  # type: ignore[union-attr]
    assert film.shape == (24, 72, 3)


def test_regions_by_name_and_place(tmp_path: Path) -> None:
    class Atlas(Seer):
        """Knows names, and places half a box to the side."""

        def answer(self, prompts: Any, *, max_tokens: int, seed: int) -> list[str]:
            self.asked += prompts
            return [self._name(p) if len(p) > 1 else place_of(25) for p in prompts]

    rows = region_rows("test")
    found = evaluate(Atlas(), "medical", rows, tmp_path, FAST)
    figures = by_metric(found.results)
    assert figures["exact match: name"].value == 1
    assert figures["exact match: place"].value == 0
    assert figures["exact match"].n == 8
    overlap = figures["overlap of the box (IoU)"]
    assert (overlap.value, overlap.n) == (0, 4)
    # Blind it says 25 to 75; the truths are 0, 2, 4 and 6 to 50 % further right.
    wanted = np.mean([(50 - (25 - n)) / (50 + (25 - n)) for n in (0, 2, 4, 6)])
    assert overlap.baselines["blind (media removed)"] == pytest.approx(wanted)

    class Anywhere(Atlas):
        """Says 2 to 52 to every question for a place, a name to every other."""

        def answer(self, prompts: Any, *, max_tokens: int, seed: int) -> list[str]:
            return [place_of(2) if self._name(p) in ("red", "blue") else self._name(p) for p in prompts]

    same = by_metric(evaluate(Anywhere(), "medical", rows, tmp_path, FAST, overwrite=True).results)
    control = same["overlap of the box (IoU)"]
    # Answers to names are no boxes: in the control they take no part.
    assert control.value == pytest.approx(control.baselines["control: shuffled labels"])
    notes = " ".join(found.about["notes"])
    assert "1 of 9 samples are answered by a picture" in notes
    assert "no diagnosis" in notes


def test_code_of_drawings(tmp_path: Path) -> None:
    write_shard(tmp_path / "data.parquet", [*code_rows("train"), *code_rows("test")])
    figures = by_metric(evaluate(Coder(), "code", str(tmp_path), tmp_path, FAST).results)
    for metric in ("parses", "tree similarity", "pixel agreement", "ink IoU"):
        assert figures[metric].value == 1
        assert figures[metric].baselines["nearest neighbour's code, 16 px"] == 1
        assert figures[metric].baselines["blind (media removed)"] == 0
    assert figures["tree edit distance"].value == 0
    assert figures["tree edit distance"].baselines["an empty drawing"] == 7
    assert figures["parses"].baselines["an empty drawing"] == 1
    assert figures["ink IoU"].baselines["an empty drawing"] == 0
    assert figures["tree similarity"].baselines["control: shuffled labels"] < 1


@pytest.mark.parametrize(
    ("suite", "rows", "metric"),
    [
        ("vqa", question_rows("test", 4), "Brier score"),
        ("code", code_rows("test"), "tree similarity"),
        ("edit", edit_rows("test", 5), "inside: error"),
    ],
)
def test_samples_of_one_picture_are_drawn_together(
    tmp_path: Path, suite: str, rows: list[dict[str, Any]], metric: str
) -> None:
    """Four pictures, each asked three times, tell no more than four."""
    thrice = [row | {"id": f"{row['id']}-{n}"} for row in rows for n in range(3)]
    subject = Coder() if suite == "code" else Artist()
    result = by_metric(evaluate(subject, suite, thrice, tmp_path, FAST).results)[metric]
    assert result.n == 12
    assert {each.num_units for each in (result.interval, *result.margins.values())} == {4}


@pytest.mark.parametrize(("sureness", "brier"), [(1.0, 0.75), (0.25, 0.1875), (0.0, 0.25)])
def test_confidence_against_what_was_right(tmp_path: Path, sureness: float, brier: float) -> None:
    class Guesser(Artist):
        def _name(self, prompt: Any) -> str:
            return "blue"

    Guesser.sureness = sureness
    found = evaluate(Guesser(), "vqa", question_rows("test"), tmp_path, FAST)
    figures = by_metric(found.results)
    assert figures["exact match"].value == 0.25
    assert figures["Brier score"].value == pytest.approx(brier)
    assert figures["Brier score"].baselines["always 25.0% sure (its accuracy)"] == pytest.approx(0.1875)
    assert figures["ECE (15 of equal width)"].value == pytest.approx(abs(sureness - 0.25))
    (table,) = found.tables
    assert table.rows[0][1:4] == ("12", f"{sureness:.1%}", "25.0%")


def test_sounds_of_another_vocoder_in_the_same_place_are_not_taken(
    model_folder: Path, tmp_path: Path
) -> None:
    import sensorium as sm
    from sensorium.evals.runner import ModelSubject
    from sensorium.model.vocoder import Vocoder, VocoderConfig
    from sensorium.pretrained.vocos import save_vocoder

    model, file = sm.load(model_folder), tmp_path / "vocoder.safetensors"

    def spoken() -> dict[str, Any]:
        save_vocoder(file, Vocoder(VocoderConfig(dim=8, mlp_dim=8, num_layers=1)))
        model.use_vocoder(file)
        options = Options(num_resamples=10, num_steps=1, limit=1)
        subject = ModelSubject(model, "model", vocoder_name=str(file))
        return evaluate(subject, "tts", speech_rows("test"), tmp_path, options).about

    assert spoken()["vocoder"].startswith(str(file))
    with pytest.raises(ValueError, match=r"answers with vocoder .*add --overwrite"):
        spoken()


def test_a_model_is_as_sure_as_its_tokens_and_its_end(model_folder: Path) -> None:
    import sensorium as sm
    from sensorium.evals.runner import ModelSubject, Sure

    subject = ModelSubject(sm.load(model_folder), "small")
    assert isinstance(subject, Sure)
    prompts = [["what is this?"], ["say red"], [sm.Image(np.zeros((8, 8, 3), np.uint8)), "which colour?"]]
    together = subject.answer_surely(prompts, max_tokens=3, seed=0)
    assert [text for text, _ in together] == subject.answer(prompts, max_tokens=3, seed=0)
    for prompt, (text, probability) in zip(prompts, together, strict=True):
        request = subject.model.request(prompt, max_tokens=3, logprobs=20)
        (answer,) = subject.model.engine.generate([request])
        logprobs = [token.logprob for token in answer.logprobs]
        logprobs += [answer.stop_logprob] if answer.finish_reason == "stop" else []
        assert answer.text == text
        assert 0 < probability < 1
        assert probability == pytest.approx(float(np.exp(sum(logprobs))), rel=1e-4)  # type: ignore[arg-type]


MAKING: dict[str, tuple[Callable[[str], list[dict[str, Any]]], Callable[[], Subject]]] = {
    "tts": (partial(speech_rows, num=3), Artist),
    "image": (picture_rows, Artist),
    "edit": (edit_rows, Artist),
    "video": (clip_rows, Seer),
    "medical": (region_rows, Seer),
    "code": (code_rows, Coder),
}


def _killed_after(number: int) -> Bar:
    left = number

    @contextmanager
    def bar(what: str, total: int) -> Iterator[Callable[[], None]]:
        def step() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        yield step

    return bar


@pytest.mark.parametrize("suite", MAKING)
def test_a_killed_suite_goes_on_with_the_same_figures(tmp_path: Path, suite: str) -> None:
    rows, subject = MAKING[suite]
    judges = Judges(recognizer=Ear(), features=Colours())
    (tmp_path / "whole").mkdir()
    whole = evaluate(subject(), suite, rows("test"), tmp_path / "whole", FAST, judges=judges)
    for num_before in (0, 3, 4):
        bar = _killed_after(num_before)
        with pytest.raises(KeyboardInterrupt):
            evaluate(subject(), suite, rows("test"), tmp_path, FAST, judges=judges, bar=bar)
    again = evaluate(subject(), suite, rows("test"), tmp_path, FAST, judges=judges)
    assert [r.as_dict() for r in again.results] == [r.as_dict() for r in whole.results]
    name = f"{suite}.answers.jsonl"
    assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    third: Any = subject()
    evaluate(third, suite, rows("test"), tmp_path, FAST, judges=judges)
    assert third.asked == []


@pytest.mark.parametrize(
    ("suite", "rows", "message"),
    [
        ("tts", picture_rows, "has no audio with text"),
        ("image", speech_rows, "has no picture with text"),
        ("edit", question_rows, "is no picture with an instruction"),
        ("video", picture_rows, "has no video with text"),
        ("medical", edit_rows, "no sample is a question with a text answer"),
        ("code", question_rows, "its answer is no SVG code"),
    ],
)
def test_other_data_are_refused_by_name(
    tmp_path: Path, suite: str, rows: Callable[[str], list[dict[str, Any]]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(Artist(), suite, rows("test"), tmp_path, FAST)


def test_who_makes_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seer answers in words alone"):
        evaluate(Seer(), "image", picture_rows("test"), tmp_path, FAST)
    with pytest.raises(ValueError, match=r"must hold \{text\}, where the text goes"):
        evaluate(Artist(), "image", picture_rows("test"), tmp_path, Options(prompt="a cat"))
    with pytest.raises(ValueError, match="takes no num_steps"):
        evaluate(Artist(), "vqa", question_rows("test"), tmp_path, Options(num_steps=3))


def test_how_edits_are_drawn_is_left_to_the_model_unless_it_is_said(tmp_path: Path) -> None:
    class Asked(Artist):
        def make(self, prompts: Any, output: str, *, seed: int, **options: Any) -> Any:
            self.options = options
            return super().make(prompts, output, seed=seed)

    subject = Asked()
    evaluate(subject, "edit", edit_rows("test"), tmp_path, FAST)
    assert subject.options == {}
    evaluate(
        subject, "edit", edit_rows("test"), tmp_path, dataclasses.replace(FAST, num_steps=3), overwrite=True
    )
    assert subject.options == {"num_steps": 3}
    evaluate(subject, "image", picture_rows("test"), tmp_path, FAST)
    assert subject.options == {"num_steps": 30, "guidance_scale": 2.5}
