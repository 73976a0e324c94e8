"""``sensorium eval`` through its own door, and the page that it writes."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sensorium.data.shards import write_shard
from sensorium.evals.report import Report, write_evaluation
from sensorium.evals.runner import Options
from sensorium.evals.suites import evaluate
from tests.cli.conftest import assert_mistake
from tests.evals.rows import (
    Seer,
    clip_rows,
    code_rows,
    edit_rows,
    picture_rows,
    question_rows,
    region_rows,
    speech_rows,
)

Here = Callable[..., CompletedProcess[str]]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shard(tmp_path / "questions.parquet", [*question_rows("train", 4), *question_rows("test", 6)])
    write_shard(tmp_path / "pictures.parquet", [*picture_rows("train"), *picture_rows("test", 6)])
    write_shard(tmp_path / "speech.parquet", [*speech_rows("train", 3), *speech_rows("test", 3)])
    write_shard(tmp_path / "edits.parquet", edit_rows("test", 4))
    write_shard(tmp_path / "clips.parquet", [*clip_rows("train", 4), *clip_rows("test", 3)])
    write_shard(tmp_path / "regions.parquet", [*region_rows("train", 4), *region_rows("test", 4)])
    write_shard(tmp_path / "code.parquet", [*code_rows("train", 4), *code_rows("test", 3)])
    return tmp_path


@pytest.mark.parametrize(
    ("suite", "data", "metrics"),
    [
        ("vqa", "questions", ["exact match"]),
        ("retrieval", "pictures", ["R@1 media -> text", "R@5 media -> text"]),
        ("asr", "speech", ["WER", "CER"]),
        ("tts", "speech", ["mel distance", "length off"]),
        ("image", "pictures", ["R@1 drawing -> text, by the model itself"]),
        ("edit", "edits", ["nearer to the wanted picture than the source is", "inside: error"]),
        ("video", "clips", ["R@1 media -> text"]),
        ("medical", "regions", ["exact match", "exact match: name"]),
        ("code", "code", ["parses", "tree similarity", "tree edit distance"]),
    ],
)
def test_a_suite_on_ones_own_parquet(
    here: Here, model_folder: Path, shards: Path, suite: str, data: str, metrics: list[str]
) -> None:
    making = ("--num-steps", "2") if suite in ("tts", "image", "edit") else ("--max-tokens", "4")
    short = () if suite == "retrieval" else making
    line = ("eval", model_folder, "--suite", suite, "--data", f"{data}.parquet", *short, "--json")
    first = here(*line, "--batch-size", "4", "--num-resamples", "50")
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert found == json.loads((shards / "evaluation" / f"{suite}.json").read_text())
    assert [result["metric"] for result in found["results"]][: len(metrics)] == metrics
    assert found["about"]["weights"]
    of_sets = ("ECE", "Frechet")  # these have no value of every sample
    assert all(
        r["interval"]["num_resamples"] == 50 for r in found["results"] if not r["metric"].startswith(of_sets)
    )
    assert all(result["baselines"] for result in found["results"])
    again = here(*line, "--batch-size", "4", "--num-resamples", "50")
    assert again.stdout == first.stdout
    anew = here(*line, "--batch-size", "4", "--num-resamples", "50", "--out", "other")
    assert anew.stdout == first.stdout  # the same figures twice
    page = (shards / "evaluation" / f"{suite}.html").read_text(encoding="utf-8")
    assert "Worst cases" in page
    assert "Best cases" in page


def test_figures_in_words(here: Here, model_folder: Path, shards: Path) -> None:
    line = ("--suite", "vqa", "--data", "questions.parquet", "--num-resamples", "50", "--max-tokens", "2")
    done = here("eval", model_folder, *line)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"exact match: \d+\.\d% \[\d+\.\d%, \d+\.\d%\], n 6", lines[0])
    (chance,) = (line for line in lines if line.startswith("  chance: "))
    assert re.fullmatch(r"  chance: 25.0%  [-+]\d+\.\d \[[-+]\d+\.\d, [-+]\d+\.\d\]", chance)
    assert lines[-1] == str(Path("evaluation/vqa.html"))


def test_known_data_may_have_a_comma_in_its_name(here: Here, model_folder: Path, shards: Path) -> None:
    for name in ("red, green.parquet", "blue.parquet"):
        write_shard(shards / name, question_rows("train", 4))
    line = ("--suite", "vqa", "--data", "questions.parquet", "--num-resamples", "50", "--max-tokens", "2")
    known = ("--known", "red, green.parquet", "--known=blue.parquet")
    done = here("eval", model_folder, *line, *known, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["about"]["known"] == 8
    mixed = here("eval", model_folder, *line, "--known", "none", "--known", "blue.parquet")
    assert_mistake(mixed, "--known none stands alone")


def test_an_interrupted_evaluation_says_how_to_go_on(
    here: Here, model_folder: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sensorium.evals.runner import ModelSubject

    line = ("--suite", "vqa", "--data", "questions.parquet", "--num-resamples", "50", "--max-tokens", "2")
    asked: list[int] = []

    def interrupting(name: str) -> Callable[..., object]:
        answer = getattr(ModelSubject, name)

        def interrupted(self: ModelSubject, prompts: list[object], **options: int) -> object:
            asked.append(len(prompts))
            if len(asked) == 2:
                raise KeyboardInterrupt
            return answer(self, prompts, **options)

        return interrupted

    for name in ("answer", "answer_surely"):
        monkeypatch.setattr(ModelSubject, name, interrupting(name))
    first = here("eval", model_folder, *line, "--batch-size", "3")
    assert (first.returncode, first.stdout) == (130, "")
    assert "the same command goes on" in first.stderr
    done = here("eval", model_folder, *line, "--batch-size", "3")
    assert done.returncode == 0
    assert asked == [3, 3, 3, 3, 3]  # six questions, seen and blind, and the batch that was lost


def test_mistakes_are_told_in_a_sentence(here: Here, model_folder: Path, shards: Path) -> None:
    data = ("--data", "questions.parquet")
    assert_mistake(here("eval", "--suite", "vqa", *data), "0 models are named")
    assert_mistake(here("eval", model_folder, *data), "--suite is missing")
    assert_mistake(here("eval", model_folder, "--suite", "vqa"), "--data is missing")
    unknown = here("eval", model_folder, "--suite", "vaq", *data)
    assert_mistake(unknown, "known are vqa, retrieval, asr")
    assert_mistake(unknown, "code, starter, all")
    no_words = ("--suite", "image", *data, "--guidance-scale", "0")
    assert_mistake(here("eval", model_folder, *no_words), "--guidance-scale is 0")
    assert_mistake(
        here("eval", model_folder, "--suite", "vqa", *data, "--normalizer", "plain"), "takes no norm"
    )
    assert_mistake(
        here("eval", model_folder, "--suite", "retrieval", *data, "--prompt", "x"), "takes no prompt"
    )
    learned = ("--split", "train", "--known", "questions.parquet")
    assert_mistake(here("eval", model_folder, "--suite", "vqa", *data, *learned), "which is what is asked")
    elsewhere = ("--split", "train", "--known", "./questions.parquet")
    assert_mistake(here("eval", model_folder, "--suite", "vqa", *data, *elsewhere), "which is what is asked")
    wrong = ("--normalizer", "whisper")
    assert_mistake(here("eval", model_folder, "--suite", "asr", *data, *wrong), "whisper-english")
    assert_mistake(here("eval", model_folder, "--suite", "asr", *data), "has no audio with text")
    ear = ("--recognizer", "nowhere")
    assert_mistake(here("eval", model_folder, "--suite", "vqa", *data, *ear), "it belongs to tts")
    speech = ("--suite", "tts", "--data", "speech.parquet")
    assert_mistake(here("eval", model_folder, *speech, *ear), "nowhere: no such folder; expected a Whisper")
    assert_mistake(here("eval", model_folder, *speech, "--recognizer", model_folder), "there is no model.bin")
    assert_mistake(here("eval", model_folder, "--suite", "starter", *data), "--data with --suite starter")
    assert_mistake(here("eval", model_folder, "--suite", "all", "--split", "train"), "each have their own")
    assert_mistake(
        here("eval", model_folder, "--suite", "all"), "data/starter: no such folder; build it with"
    )
    assert_mistake(here("eval", model_folder, "--suite", "image", *data), "has no picture with text")
    assert_mistake(here("eval", model_folder, "--suite", "vqa", *data, "--split", "tset"), "'tset'")
    assert_mistake(here("eval", model_folder, "--suite", "vqa", "--data", "none.parquet"), "none.parquet")
    assert_mistake(here("eval", model_folder, "--suite", "vqa", *data, "--prompt", "why"), "{question}")


class Outline(HTMLParser):
    """What a reader without eyes has of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.sounds: list[dict[str, str | None]] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag == "audio":
            self.sounds.append(dict(attrs))


def test_a_page_shows_its_cases_to_everyone(tmp_path: Path) -> None:
    options = Options(num_resamples=50)
    rows = speech_rows("test", 8, duration_s=0.2)
    rows[3]["text"] = "<b>wrong</b> & not heard"
    found = evaluate(Seer(), "asr", rows, tmp_path, options)
    write_evaluation(found, tmp_path / "asr.html", num_shown=3)
    page = (tmp_path / "asr.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert page.count("<li>") == 6
    assert len(outline.sounds) == len(outline.pictures) == 6
    assert all((sound["src"] or "").startswith("data:audio/wav;base64,") for sound in outline.sounds)
    assert all("controls" in sound and sound["aria-label"] for sound in outline.sounds)
    assert all((p["src"] or "").startswith("data:image/png;base64,") for p in outline.pictures)
    assert all("said: " in (p["alt"] or "") for p in outline.pictures)
    # Headings go down one step at a time, tables have captions and named rows and columns.
    assert outline.headings[0] == "h1"
    assert outline.headings.count("h1") == 1
    assert [h for h in outline.headings if h == "h2"] == ["h2"] * 2
    assert {"caption", "thead", "main", "title"} <= set(outline.tags)
    assert '<th scope="row">WER</th>' in page
    assert "of rate lower is better</caption>" in page
    assert '<html lang="en">' in page
    assert "http" not in page
    # The wrong one comes first, and its text is text.
    assert page.index("test-3") < page.index("Best cases") < page.rindex("test-")
    assert re.search(r"<h3>test-3: \d errors in \d words", page)
    assert "<b>" not in page
    worst = page[page.index("Worst cases") : page.index("Best cases")]
    best = page[page.index("Best cases") :]
    shown = re.findall(r"<h3>(test-\d)", worst), re.findall(r"<h3>(test-\d)", best)
    assert shown[0][0] == "test-3"
    assert not set(shown[0]) & set(shown[1])
    write_evaluation(found, tmp_path / "again.html", num_shown=3)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_pictures_are_shown_small(tmp_path: Path) -> None:
    found = evaluate(Seer(), "vqa", question_rows("test", 4), tmp_path, Options(num_resamples=50))
    write_evaluation(found, tmp_path / "vqa.html")
    outline = Outline()
    outline.feed((tmp_path / "vqa.html").read_text(encoding="utf-8"))
    assert len(outline.pictures) == 4
    assert "question: what colour is it?" in str(outline.pictures[0]["alt"])


def test_bars_of_a_table_begin_at_the_left(tmp_path: Path) -> None:
    report = Report("bars")
    report.table("shares", ("what", "share", ""), [("a", "50%", "█████"), ("b", "0%", "")])
    report.write(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<td>50%</td><td class="bar">█████</td>' in page
    assert "td.bar{text-align:left}" in page
