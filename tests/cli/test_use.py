"""``generate``, ``chat``, ``embed``, ``info``, ``doctor`` with a small random model."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from sensorium.media.parts import Audio, Image, Video
from sensorium.model.vocoder import Vocoder, VocoderConfig
from sensorium.pretrained.vocos import save_vocoder
from tests.cli.conftest import Run, assert_mistake
from tests.media.clips import clip

SHORT = ("--max-tokens", "6")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> object:
    """The same model through the Python interface."""
    import sensorium

    return sensorium.load(model_folder)


def test_generate_streams_what_the_interface_answers(
    command: Run, model_folder: Path, model: object, picture: Path
) -> None:
    done = command("generate", picture, "what is this?", "--model", model_folder, *SHORT)
    assert done.returncode == 0, done.stderr
    answer = model.generate([Image(picture), "what is this?"], max_tokens=6)  # type: ignore[attr-defined]
    assert done.stdout.strip() == answer


def test_generate_text_as_json_from_standard_input(
    here: Run, model_folder: Path, model: object, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("transcribe\n"))
    done = here("generate", sound, "-", "--json", "--model", model_folder, *SHORT)
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["output"] == "text"
    assert reply["text"] == model.generate([Audio(sound), "transcribe"], max_tokens=6)  # type: ignore[attr-defined]


def test_generate_a_picture(command: Run, model_folder: Path, model: object, tmp_path: Path) -> None:
    line = ("generate", "a red car", "--out", "car.png", "--num-steps", "3", "--seed", "5")
    done = command(*line, "--model", model_folder)
    assert (done.returncode, done.stdout) == (0, "car.png\n"), done.stderr
    expected = model.generate("a red car", "image", num_steps=3, seed=5)  # type: ignore[attr-defined]
    assert np.array_equal(Image(tmp_path / "car.png").pixels(), expected.pixels())


def test_generate_a_sound_under_the_first_free_name(here: Run, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "audio.wav").write_bytes(b"taken")
    options = ("--output", "audio", "--num-steps", "2", "--duration-s", "0.25", "--json")
    done = here("generate", "rain", "--model", model_folder, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["file"] == "audio-1.wav"
    assert (tmp_path / "audio.wav").read_bytes() == b"taken"
    # Four patches of 6 frames: 23 hops of 256 samples.
    assert len(Audio(tmp_path / "audio-1.wav").waveform()) == 23 * 256


def test_generate_answers_about_a_video(here: Run, model_folder: Path, model: object, tmp_path: Path) -> None:
    for kind in ("mp4", "webm"):
        (tmp_path / f"clip.{kind}").write_bytes(clip(kind))
        done = here("generate", f"clip.{kind}", "what happens?", "--json", "--model", model_folder, *SHORT)
        assert done.returncode == 0, done.stderr
        with pytest.warns(UserWarning, match="hears the first"):
            answer = model.generate([Video(tmp_path / f"clip.{kind}"), "what happens?"], max_tokens=6)  # type: ignore[attr-defined]
        assert json.loads(done.stdout)["text"] == answer
    (tmp_path / "broken.mp4").write_bytes(clip()[:3000])
    assert_mistake(here("generate", "broken.mp4", "what?", "--model", model_folder), "broken.mp4", "video")


def test_a_vocoder_is_for_sounds(here: Run, model_folder: Path, tmp_path: Path) -> None:
    save_vocoder(tmp_path / "vocoder.safetensors", Vocoder(VocoderConfig(dim=8, mlp_dim=8, num_layers=1)))
    line = ("generate", "rain", "--model", model_folder, "--vocoder", ".")
    done = here(*line, "--out", "rain.wav", "--num-steps", "2", "--duration-s", "0.25")
    assert done.returncode == 0, done.stderr
    assert len(Audio(tmp_path / "rain.wav").waveform()) == 23 * 256
    assert_mistake(here(*line), "--vocoder is for sounds", "--output audio")
    assert_mistake(here(*line[:-1], "none.bin", "--output", "audio"), "none.bin", "no such vocoder")


def test_an_option_of_another_output_is_refused(here: Run, model_folder: Path) -> None:
    done = here("generate", "hi", "--model", model_folder, "--guidance-scale", "3")
    assert_mistake(done, "--guidance-scale is for pictures and sounds", "--output image")
    line = ("generate", "hi", "--model", model_folder, "--preview-every", "2")
    assert_mistake(here(*line, "--output", "image", "--n", "2"), "--preview-every")
    assert_mistake(here(*line), "--preview-every")


def test_pictures_of_an_earlier_run_are_kept(here: Run, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "image-2.png").write_bytes(b"earlier")
    line = ("generate", "a", "--model", model_folder, "--output", "image", "--num-steps", "1")
    runs = [here(*line, "--n", "2") for _ in range(2)]
    assert [done.returncode for done in runs] == [0, 0]
    assert (tmp_path / "image-2.png").read_bytes() == b"earlier"
    assert len(list(tmp_path.glob("image*.png"))) == 5


def test_a_video_too_large_is_refused_unread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sensorium.commands.parts import read_medium
    from sensorium.media.video import VideoLimits

    with (tmp_path / "a.webm").open("wb") as file:
        file.truncate(VideoLimits().max_bytes + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"a\.webm.*at most"):
        read_medium(str(tmp_path / "a.webm"))


def test_chat_from_a_pipe(
    command: Run, model_folder: Path, model: object, picture: Path, tmp_path: Path
) -> None:
    lines = f"/image {picture}\nwhat is this?\nand why?\n/save talk.json\n/reset\nhello\n/quit\nnot read\n"
    done = command("chat", "--model", model_folder, *SHORT, stdin=lines)
    assert done.returncode == 0, done.stderr
    image, said = Image(picture), json.loads((tmp_path / "talk.json").read_text())
    first = model.generate([image, "what is this?"], max_tokens=6)  # type: ignore[attr-defined]
    assert [m["role"] for m in said][:3] == ["user", "assistant", "user"]
    assert said[0]["content"] == [
        {"type": "image", "path": str(picture)},
        {"type": "text", "text": "what is this?"},
    ]
    assert said[1]["content"] == [{"type": "text", "text": first}]
    turns = [
        {"role": "user", "content": [image, "what is this?"]},
        {"role": "assistant", "content": [first]},
        {"role": "user", "content": ["and why?"]},
    ]
    second = model.generate(turns, max_tokens=6)  # type: ignore[attr-defined]
    third = model.generate("hello", max_tokens=6)  # type: ignore[attr-defined]
    assert [line for line in (first, second, third) if line not in done.stdout] == []


def test_chat_from_a_pipe_stops_at_a_mistake(
    here: Run, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/imagge cat.png\nwhat is this?\n"))
    done = here("chat", "--model", model_folder, *SHORT)
    assert_mistake(done, "/imagge", "/image")


def test_chat_at_a_terminal_goes_on_after_a_mistake(
    model: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sensorium.commands import chat

    typed = iter(["/image nowhere.png", "hello", "/help"])

    def type_in(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", type_in)
    monkeypatch.setattr(chat.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(chat, "open_model", lambda *which: model)
    assert chat.main(["--max-tokens", "4"]) == 0
    said = capsys.readouterr()
    assert "nowhere.png: no such file" in said.err
    assert model.generate("hello", max_tokens=4) in said.out  # type: ignore[attr-defined]
    assert "/reset" in said.out


def test_embed_lines(command: Run, model_folder: Path, model: object, picture: Path) -> None:
    done = command("embed", "--model", model_folder, stdin=f"a cat\n{picture}\n")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["part"] for line in lines] == ["a cat", str(picture)]
    expected = model.embed(["a cat", Image(picture)])  # type: ignore[attr-defined]
    vectors = np.array([line["embedding"] for line in lines], np.float32)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_embed_to_a_file(here: Run, model_folder: Path, model: object, sound: Path, tmp_path: Path) -> None:
    done = here("embed", "a cat", "-5 degrees", sound, "--out", "x.npy", "--json", "--model", model_folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"model": str(model_folder), "shape": [3, 16], "file": "x.npy"}
    expected = model.embed(["a cat", "-5 degrees", Audio(sound)])  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-6)


def test_embed_names_the_part_that_is_wrong(command: Run) -> None:
    assert_mistake(command("embed", stdin="a cat\n\ntext:\n"), "part 2", "empty")
    assert_mistake(command("embed"), "nothing to embed")


def test_info_of_a_model_folder(here: Run, model_folder: Path, model: object) -> None:
    done = here("info", model_folder, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    num = sum(p.numel() for p in model.model.parameters())  # type: ignore[attr-defined]
    assert facts["parameters"] == sum(row["parameters"] for row in facts["modules"]) == num
    assert facts["media"]["image"]["max_tokens"] == 4
    assert facts["media"]["audio"]["tokens_per_s"] == 15.625


def test_info_of_a_recipe(here: Run) -> None:
    done = here("info", "nano")
    assert done.returncode == 0, done.stderr
    for fragment in (
        "recipe nano",
        "layers.0-3",
        "encoders.image.stem",
        "FLOPs",
        "tokens a second",
        "2 x weights",
    ):
        assert fragment in done.stdout


def test_doctor(command: Run) -> None:
    done = command("doctor", "--json")
    report = json.loads(done.stdout)
    status = {check["name"]: check["status"] for check in report["checks"]}
    for name in ("python", "packages", "torch", "disk", "pictures", "sound", "starter data", "speed"):
        assert status[name] in ("ok", "warn"), report
    assert (done.returncode, report["ok"]) == (0, True)


def test_doctor_fails_and_says_how_to_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sensorium.commands import doctor
    from sensorium.commands.checks import Check

    def breaks() -> list[Check]:
        raise RuntimeError("no such\nlibrary")

    found = {"sound": lambda: [Check("sound", "fail", "no libsndfile", "install it")], "gpu": breaks}
    monkeypatch.setattr(doctor, "CHECKS", found)
    assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert "fail  sound         no libsndfile; install it\n" in said
    assert "RuntimeError: no such library" in said
    assert "2 of 2 checks failed" in said


def test_doctor_notices_a_changed_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import shutil

    import sensorium.starter
    from sensorium.commands.checks import check_starter_data

    copy = shutil.copytree(sensorium.starter.DATA_DIR, tmp_path / "data")
    with (copy / "noto" / "data.parquet").open("ab") as file:
        file.write(b"x")
    monkeypatch.setattr(sensorium.starter, "DATA_DIR", copy)
    [check] = check_starter_data()
    assert check.status == "fail"
    assert "noto" in check.found
    assert check.mend


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("hi", "--mask", "m.png"), ("--mask is for pictures", "--output image or --out NAME.png")),
        (("hi", "--duration-s", "1"), ("--duration-s is for sounds", "--out NAME.wav")),
        (("hi", "--num-steps", "3"), ("--num-steps is for pictures and sounds",)),
        (("hi", "--output", "image", "--max-tokens", "5"), ("--max-tokens is for text", "--output text")),
        (("hi", "--choices", ""), ("has an empty choice", "yes|no")),
        (("hi", "--choices", "yes|"), ("has an empty choice",)),
        (("rain", "--out", "rain.xyz"), ("'.xyz' is not known", ".wav", ".png", ".txt")),
        (("rain", "--out", "answer.png.bak"), ("'.bak' is not known",)),
        (("hi", "--json-schema", "no.json"), ("no.json: no such file",)),
        (("hi", "--seed", "1.5"), ("--seed is '1.5'; expected a whole number",)),
        (("hi", "--temperature", "hot"), ("--temperature is 'hot'; expected a number",)),
        (("hi", "--model", "nano"), ("no model folder at nano", "starter", "sensorium runs")),
    ],
)
def test_what_generate_says_to_a_mistake(
    here: Run, arguments: tuple[str, ...], fragments: tuple[str, ...]
) -> None:
    assert_mistake(here("generate", *arguments), *fragments)


def test_a_sound_that_is_too_long_is_told_in_seconds(here: Run, model_folder: Path) -> None:
    done = here("generate", "rain", "--output", "audio", "--duration-s", "10", "--model", model_folder)
    assert_mistake(done, "audio of 9.", " s (", "this model makes sounds of")


def test_an_answer_that_is_cut_off_says_so(here: Run, model_folder: Path) -> None:
    done = here(
        *("generate", "hi", "--model", model_folder, "--regex", "[0-9]{20}", "--max-tokens", "3", "--json")
    )
    assert json.loads(done.stdout)["finish_reason"] == "length"
    assert "cut off: --max-tokens is 3" in done.stderr


def test_verbs_of_data_are_named(here: Run) -> None:
    assert here("data", "import", "x").stderr.startswith("sensorium data import: --out is missing")
    done = here("data", "show", "starter:noto", "0", "--split", "val")
    assert_mistake(done, "--split is 'val'; expected train, validation, test")
    assert_mistake(here("data", "show", "starter:noto"), "got starter:noto")


def test_help_is_a_verb_too(here: Run) -> None:
    assert here("help").stdout == here("--help").stdout


def test_a_folder_of_pictures_is_to_be_imported(here: Run, picture: Path) -> None:
    folder = picture.parent
    for verb in (("check", folder), ("stats", folder), ("show", folder, "0")):
        assert_mistake(here("data", *verb), f"no Parquet data at {folder}", f"sensorium data import {folder}")


def test_the_vocoder_is_no_recipe(here: Run) -> None:
    assert_mistake(here("info", "vocoder"), "sensorium train vocoder --help", "docs/sound.md")
    assert_mistake(here("train", "vocoder", "--dry-run"), "train vocoder has no dry run")


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("/image", ("line 1: /image needs a file: /image cat.png", "later lines were not read")),
        ("/save no/x.json", ("no: no such folder to save x.json in",)),
        ("/foo", ("unknown command /foo; /help lists them all",)),
    ],
)
def test_what_chat_says_to_a_mistake(
    here: Run,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    fragments: tuple[str, ...],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(line + "\n"))
    assert_mistake(here("chat", "--model", model_folder), *fragments)


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("--seed", "-3", 0), ("--limit", "-1", 0), ("--max-tokens", "0", 1), ("--batch-size", "0", 1)],
)
def test_numbers_that_eval_does_not_take(here: Run, option: str, value: str, least: int) -> None:
    done = here("eval", "starter", "--suite", "vqa", "--data", "starter:easy-vqa", option, value)
    assert_mistake(done, f"{option} is {value}; expected at least {least}")


def test_a_refused_evaluation_leaves_no_folder(here: Run, model_folder: Path, tmp_path: Path) -> None:
    done = here("eval", model_folder, "--suite", "vqa", "--data", "no.parquet")
    assert_mistake(done, "no Parquet data at no.parquet")
    assert not (tmp_path / "evaluation").exists()


def test_the_python_door() -> None:
    import sensorium as sm

    assert {"load", "Image", "Audio", "Video"} <= set(dir(sm))
    model = sm.load("starter")
    assert "parameters" in repr(model)
    with pytest.raises(ValueError, match="the prompt is a int; expected text"):
        model.generate(5)


def test_extras_are_those_of_the_project() -> None:
    import tomllib

    from sensorium.commands.checks import EXTRAS

    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text("utf-8"))
    assert EXTRAS.keys() == project["project"]["optional-dependencies"].keys() - {"dev"}
