"""lmms-eval itself runs a model of ours: its command on a local task, and its requests in every form."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Audio as AudioFeature
from datasets import Dataset
from datasets import Image as ImageFeature
from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.models import get_model
from loguru import logger
from PIL import Image as pillow

import sensorium as sm
from sensorium.data.reader import Reader
from sensorium.evals.bridge.lmms import ChatModel, SimpleModel, chat_part, part_of
from sensorium.evals.cases import question_cases
from tests.evals.rows import tone
from tests.generate.small_model import small_model
from tests.media.clips import clip

TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function {name}_utils.media
doc_to_text: !function {name}_utils.question
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 12
  temperature: 0
  top_p: 0
  num_beams: 1
  do_sample: false
  image_aspect_ratio: original
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
metadata:
  - version: 0.0
"""

# The forms in which tasks of lmms-eval give pictures and sounds.
UTILS = """
def media(doc):
    return [doc["image"].convert("RGB")] if "image" in doc else [doc["audio"]]

def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""


def write_task(folder: Path, name: str, data: Dataset) -> None:
    path = folder / f"{name}.parquet"
    data.to_parquet(path)
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=path), encoding="utf-8")
    (folder / f"{name}_utils.py").write_text(UTILS, encoding="utf-8")


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
# With pictures, and with sounds.
COMMANDS = re.findall(r"^lmms-eval --model sensorium .*", PAGE, flags=re.M)


def run_lmms_eval(folder: Path, command: str, task: str) -> tuple[list[str], float, str]:
    """A command of the page, with a model and a task that are here -> answers, the figure, what it printed."""
    words = re.sub(r"(?<=--tasks )\S+", task, command.replace("runs/tiny", "starter")).split()
    quiet = {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name(words[0])),
            *words[1:],
            "--include_path",
            str(folder),
            "--log_samples",
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **quiet, "CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (folder / "out").rglob(f"*_samples_{task}.jsonl")
    (results,) = (folder / "out").rglob("*_results.json")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    figure = json.loads(results.read_text(encoding="utf-8"))["results"][task]["exact_match,none"]
    return [line["filtered_resps"] for line in lines], figure, done.stdout


@pytest.mark.slow
def test_the_command_gives_the_answers_of_the_model(tmp_path: Path) -> None:
    reader = Reader("starter:easy-vqa", "test")
    rows = [reader.row(0, n) for n in range(24)]
    cases = question_cases(rows)
    columns = {
        "image": [{"bytes": row["images"][0]["bytes"], "path": None} for row in rows],
        "question": [case.question for case in cases],
        "answer": [case.answers[0] for case in cases],
    }
    write_task(tmp_path, "shapes", Dataset.from_dict(columns).cast_column("image", ImageFeature()))

    answers, figure, shown = run_lmms_eval(tmp_path, COMMANDS[0], "shapes")
    model = sm.load()
    assert answers == [model.generate(list(case.prompt), max_tokens=12).strip() for case in cases]
    assert len(set(answers)) > 4
    right = [answer == case.answers[0] for answer, case in zip(answers, cases, strict=True)]
    assert figure == pytest.approx(np.mean(right))
    assert shown.count("sensorium: leaves these options of tasks out: image_aspect_ratio") == 1


@pytest.mark.slow
def test_sounds_of_a_data_set_arrive_with_force_simple(tmp_path: Path) -> None:
    reader = Reader("starter:asterisk-en", "train")
    rows = [reader.row(0, n) for n in range(8)]
    columns = {
        "audio": [row["audio"] for row in rows],
        "question": ["transcribe"] * len(rows),
        "answer": [row["text"] for row in rows],
    }
    data = Dataset.from_dict(columns).cast_column("audio", AudioFeature(decode=False))
    write_task(tmp_path, "speech", data)

    answers, _, _ = run_lmms_eval(tmp_path, COMMANDS[1], "speech")
    model = sm.load()
    heard = [[sm.Audio(row["audio"]["bytes"]), "transcribe"] for row in rows]
    assert answers == [model.generate(prompt, max_tokens=12).strip() for prompt in heard]
    assert len(set(answers)) > 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    small_model().save_pretrained(folder)
    return folder


def requests_of(model: ChatModel, asked: list[Any], **options: Any) -> list[Instance]:
    """What lmms-eval hands a chat model: how to make messages of a document, which the model looks up."""
    model.task_dict = {"t": {"test": asked}}
    return [
        Instance(
            request_type="generate_until",
            arguments=("", lambda doc: [{"role": "user", "content": doc}], options, n, "t", "test"),
            idx=0,
            metadata={"task": "t", "doc_id": n, "repeats": 1},
        )
        for n in range(len(asked))
    ]


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def square(colour: str) -> pillow.Image:
    return pillow.new("RGB", (20, 20), colour)


def test_lmms_eval_finds_both_models_by_the_entry_point() -> None:
    assert get_model("sensorium") is ChatModel
    assert get_model("sensorium", force_simple=True) is SimpleModel


def test_pictures_stand_between_words_and_batches_are_as_single_answers(folder: Path) -> None:
    model = ChatModel(str(folder), batch_size=4, max_new_tokens=6)
    colours = ["red", "green", "blue", "white", "black"]
    asked = [[words("is "), {"type": "image", "url": square(c)}, words(" like "), words(c)] for c in colours]
    found = model.generate_until(requests_of(model, asked))
    plain = sm.load(folder)
    for colour, result in zip(colours, found, strict=True):
        prompt = ["is ", sm.Image(square(colour)), " like ", colour]
        assert result.text == plain.generate(prompt, max_tokens=6)
        assert (
            result.token_counts.input_tokens
            == plain.engine.generate([plain.request(prompt, max_tokens=6)])[0].num_prompt_tokens
        )
        assert 1 <= result.token_counts.output_tokens <= 6


def test_a_conversation_keeps_its_turns(folder: Path) -> None:
    model = ChatModel(str(folder), max_new_tokens=6)
    turns = [("system", "be short"), ("user", "one?"), ("assistant", "two"), ("user", "three?")]
    (request,) = requests_of(model, [None])
    messages = [{"role": role, "content": [words(said)]} for role, said in turns]
    request.arguments = ("", lambda doc: messages, {}, 0, "t", "test")
    (result,) = model.generate_until([request])
    plain = [{"role": role, "content": said} for role, said in turns]
    assert result.text == sm.load(folder).generate(plain, max_tokens=6)


def test_repetitions_are_drawn_anew_and_the_seed_makes_them_repeatable(folder: Path) -> None:
    model, drawn = ChatModel(str(folder), seed=5, batch_size=3), {"max_new_tokens": 8, "temperature": 20.0}
    a, b = requests_of(model, [[words("a")], [words("b")]], **drawn)
    # lmms-eval repeats a question by giving the very same request several times.
    found = [result.text for result in model.generate_until([a, a, a, b])]
    assert len(set(found)) == 4
    plain = sm.load(folder)
    options = {"max_tokens": 8, "temperature": 20.0}
    assert found[:3] == [plain.generate(["a"], seed=seed, **options) for seed in (5, 6, 7)]
    assert found[3] == plain.generate(["b"], seed=5, **options)


GREEDY = {"max_tokens": 256, "seed": 0, "temperature": 0.0, "stop": []}


@pytest.mark.parametrize(
    ("given", "taken", "left_out"),
    [
        ({}, GREEDY, ""),
        ({"until": ["\n\n", ""], "do_sample": False}, {**GREEDY, "stop": ["\n\n"]}, ""),
        ({"until": "."}, {**GREEDY, "stop": ["."]}, ""),
        ({"until": None, "top_p": None, "max_new_tokens": 16}, {**GREEDY, "max_tokens": 16}, ""),
        ({"temperature": 0, "top_p": 0, "num_beams": 1}, GREEDY, ""),
        ({"temperature": 0.7, "top_p": 0.9}, {**GREEDY, "temperature": 0.7, "top_p": 0.9}, ""),
        ({"temperature": 0.7, "do_sample": False}, GREEDY, ""),
        ({"do_sample": True, "seed": 4}, {**GREEDY, "temperature": 1.0, "seed": 4}, ""),
        ({"num_beams": 3}, GREEDY, "num_beams over 1"),
        ({"prompt_type": "direct", "image_aspect_ratio": "pad"}, GREEDY, "image_aspect_ratio, prompt_type"),
    ],
)
def test_options_of_tasks(folder: Path, given: dict[str, Any], taken: dict[str, Any], left_out: str) -> None:
    said: list[str] = []
    handler = logger.add(said.append, format="{message}")
    model = ChatModel(str(folder))
    assert model._options(given) == taken
    model._options(given)
    logger.remove(handler)
    assert [line.partition("out: ")[2].strip() for line in said] == ([left_out] if left_out else [])


class Decoder:
    """What ``datasets`` gives for a sound where torchcodec is installed."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples

    def get_all_samples(self) -> SimpleNamespace:
        return SimpleNamespace(data=torch.from_numpy(self.samples), sample_rate=24_000)


def test_every_form_of_a_sound_is_the_same_sound(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    path.write_bytes(tone(3))
    wave = sm.Audio(path).waveform()
    stereo = np.stack([wave, wave])
    for form in (
        str(path),
        {"type": "audio", "url": str(path)},
        {"bytes": tone(3), "path": "tone.wav"},
        {"array": wave, "sampling_rate": 24_000, "path": "elsewhere.wav"},
        {"array": stereo, "sampling_rate": 24_000},
        Decoder(stereo),
    ):
        part = part_of(form)
        assert isinstance(part, sm.Audio)
        assert np.allclose(part.waveform(), wave, atol=2e-4)
    # lmms-eval calls a decoded sound a video.
    assert isinstance(chat_part({"type": "video", "url": {"array": wave, "sampling_rate": 24_000}}), sm.Audio)


def test_sounds_that_are_too_long_are_counted(folder: Path) -> None:
    said: list[str] = []
    handler = logger.add(said.append, format="{message}")
    model = ChatModel(str(folder), max_new_tokens=1)
    sounds = [
        {"type": "audio", "url": {"bytes": tone(n, s), "path": "a.wav"}}
        for n, s in ((1, 2.5), (2, 3), (3, 9))
    ]
    model.generate_until(requests_of(model, [[sounds[0]], [sounds[1], sounds[2]]]))
    model.generate_until(requests_of(model, [[sounds[0]]]))  # another task, with none
    model.generate_until(requests_of(model, [[sounds[1]]]))
    logger.remove(handler)
    assert said == [
        f"sensorium: of {num} sounds it hears the first 2.56 s: they are longer\n" for num in (2, 1)
    ]


def test_pictures_and_videos(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip())
    square("red").save(tmp_path / "red.png")
    for form in (
        square("red"),
        str(tmp_path / "red.png"),
        {"bytes": (tmp_path / "red.png").read_bytes(), "type": "image"},
    ):
        part = part_of(form)
        assert isinstance(part, sm.Image)
        assert (part.pixels() == (255, 0, 0)).all()
    video = chat_part({"type": "video", "url": str(tmp_path / "clip.mp4")})
    assert isinstance(video, sm.Video)
    assert len(video.frames()[0]) > 1


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image", "url": 3}, "a medium is a int of kind 'image'"),
        ({"type": "point_cloud", "url": "a.ply"}, "of kind 'point_cloud'"),
        ({"type": "video", "url": {"path": None}}, "expected a picture"),
        ({"type": "video", "url": "a.mp4", "start_time": 2.0}, "a piece of a video"),
        ({"type": "video", "url": {"video_start": 1, "path": "a.mp4"}}, "a piece of a video"),
        (words("long " * 2000), "the prompt has 10001 tokens"),
        ({"type": "video", "url": "nowhere.wav"}, "no such sound file.*add --force_simple"),
    ],
)
def test_what_cannot_be_read_names_the_task_and_the_sample(
    folder: Path, part: dict[str, Any], message: str
) -> None:
    model = ChatModel(str(folder))
    with pytest.raises((ValueError, OSError), match=rf"task t, sample 1: .*{message}"):
        model.generate_until(requests_of(model, [[words("a")], [part]])[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": "auto"}, "batch_size is 'auto'; expected a number"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"pretrained": "nowhere"}, "no model folder at nowhere"),
    ],
)
def test_wrong_model_args_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        ChatModel(**arguments)


def test_likelihoods_are_refused_as_long_as_lmms_eval_spoils_them(folder: Path) -> None:
    assert unwrap_generation_output((-1.5, True)) == ("(-1.5, True)", None)
    with pytest.raises(NotImplementedError, match="likelihoods"):
        ChatModel(str(folder)).loglikelihood([])
