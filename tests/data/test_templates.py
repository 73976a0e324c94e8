"""Templates: what each task's documents hold, token by token, on real media."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from sensorium import recipes
from sensorium.config import Template, from_dict
from sensorium.data.sample import Sample, sample_of_row
from sensorium.data.schema import medium, message
from sensorium.data.templates import CHUNK_PATCHES, build_documents, built_in, find_template
from sensorium.sequence.document import Document, MediaSegment, TextSegment, layout
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.starter import load_table

MODEL = recipes.nano().model
TOKENIZER = Tokenizer.bytes()


def row(source: str, index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = load_table(source).slice(index, 1).to_pylist(maps_as_pydicts="strict")[0]
    return found


PICTURE = row("noto", 3)
SOUND = max((row("scratch", n) for n in range(40)), key=lambda r: len(r["audio"]["bytes"]))
BOTH = {**PICTURE, "audio": SOUND["audio"]}


def clip() -> dict[str, Any]:
    """Eight shades of grey, a quarter of a second each."""
    frames = [Pillow.new("RGB", (32, 32), (30 * n,) * 3) for n in range(8)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=250, lossless=True)
    return {
        "id": "clip",
        "source": "grey",
        "text": "it gets brighter",
        "video": medium(buffer.getvalue(), "clip.webp"),
        "segments": [
            {"start_s": 0.0, "end_s": 1.0, "text": "dark"},
            {"start_s": 1.0, "end_s": 2.0, "text": "bright"},
        ],
    }


EDIT = {
    "id": "edit",
    "source": "edits",
    "messages": [message("user", {"type": "image"}, "turn it over"), message("assistant", {"type": "image"})],
    "images": [PICTURE["image"], row("noto", 5)["image"]],
}


def fill(values: dict[str, Any], template: str | Template, **options: Any) -> list[Document]:
    sample = sample_of_row(values, MODEL, max_frames=4)
    return build_documents(sample, template, TOKENIZER, np.random.default_rng(0), **options)


def read(document: Document) -> str:
    """Text in plain words, what is predicted in square brackets, media in angle brackets."""
    out = ""
    for segment in document.segments:
        if isinstance(segment, MediaSegment):
            out += f"<{segment.modality}{'*' if segment.noisy else ''}>"
        elif isinstance(segment, TextSegment):
            words = "".join(
                TOKENIZER.decode([t])
                if t >= TOKENIZER.size_base + 256
                else str(TOKENIZER.backend.id_to_token(t))
                for t in segment.token_ids
            )
            out += f"[{words}]" if segment.supervised else words
        else:
            out += f"<emb:{segment.side}>"
    return out


NAME, HUM = PICTURE["text"], SOUND["text"]
LONG = sample_of_row(SOUND, MODEL).media[0].segment(noisy=True).grid[0]


@pytest.mark.parametrize(
    ("values", "template", "expected"),
    [
        (PICTURE, "pair", [f"<image><emb:a>[{NAME}<eos>]", f"{NAME}<emb:b>[<image><4><4>]<image*>"]),
        (PICTURE, "align", [f"<image><emb:a>[{NAME}<eos>]", f"{NAME}<emb:b>"]),
        (SOUND, "embed", ["<audio><emb:a>", f"{HUM}<emb:b>"]),
        (BOTH, "see-hear", ["<image><emb:a>", "<audio><emb:b>"]),
        (SOUND, "transcribe", [f"<audio>transcribe<assistant>[{HUM}<eos>]"]),
        (SOUND, "speak", [f"say {HUM}<emb:>[<audio><{LONG}>]<audio*>"]),
        (row("wordnet"), "text", [f"[{row('wordnet')['text']}<eos>]"]),
        (EDIT, "chat", ["<image>turn it over<assistant>[<image><4><4>]<image*>"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_template_writes(values: dict[str, Any], template: str, expected: list[str]) -> None:
    assert [read(document) for document in fill(values, template)] == expected


def test_words_are_drawn_and_read_not_predicted() -> None:
    choices = built_in()["caption"].words["ask"]
    found = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        (document,) = build_documents(sample_of_row(PICTURE, MODEL), "caption", TOKENIZER, rng)
        found.add(read(document))
    assert found == {f"<image>{ask}<assistant>[{NAME}<eos>]" for ask in choices}


def test_a_clip_is_timed_frames() -> None:
    (document,) = fill(clip(), Template(documents=("{video}what?<assistant>{text!}<eos!>",)))
    assert read(document) == (
        "0.0s<image>0.5s<image>1.0s<image>1.5s<image>what?<assistant>[it gets brighter<eos>]"
    )
    frames = [s.array.mean() for s in document.segments if isinstance(s, MediaSegment)]
    assert np.all(np.diff(frames) > 0.3)  # in order, and not the same frame
    (timed,) = fill(clip(), "watch-timed")
    assert read(timed).endswith("[0.0s dark\n1.0s bright<eos>]")


def test_live_captions_say_what_has_been_heard() -> None:
    sample = sample_of_row(SOUND, MODEL)
    frames = sample.media[0].clean_CHW.shape[1]
    chunk_s = CHUNK_PATCHES * 6 * 256 / 24_000
    num_chunks = -(-frames // (CHUNK_PATCHES * 6))
    assert num_chunks >= 2
    sample.segments = [
        {"start_s": 0.0, "end_s": chunk_s - 0.01, "text": "one"},
        {"start_s": chunk_s, "end_s": chunk_s + 0.01, "text": "two"},
    ]
    (document,) = build_documents(sample, "listen", TOKENIZER, np.random.default_rng(0))
    expected = "<audio>[one<wait>]<audio>[ two" + "<wait>]<audio>[" * (num_chunks - 2) + "<eos>]"
    assert read(document) == expected
    parts = [s.array for s in document.segments if isinstance(s, MediaSegment)]
    assert np.concatenate(parts, axis=1).tobytes() == sample.media[0].seen_CHW.tobytes()
    sample.segments = []
    (document,) = build_documents(sample, "listen", TOKENIZER, np.random.default_rng(0))
    assert read(document) == "<audio>[<wait>]" * (num_chunks - 1) + f"<audio>[{HUM}<eos>]"


def test_an_edit_drops_its_words_but_keeps_its_source() -> None:
    (document,) = fill(EDIT, "chat", condition_dropout=1.0)
    assert read(document) == "<image><assistant>[<image><4><4>]<image*>"
    (document,) = fill(EDIT, "chat", media_dropout=1.0)
    assert read(document).startswith("<image>turn")  # what is generated from is never taken away


def test_an_edit_is_never_augmented() -> None:
    """A mirrored source would teach the wrong edit."""
    rng = np.random.default_rng(0)
    edited = sample_of_row(EDIT, MODEL, rng=rng, strength=1.0)
    assert all(m.seen_CHW is m.clean_CHW for m in edited.media)
    named = sample_of_row(PICTURE, MODEL, rng=rng, strength=1.0)
    assert not np.array_equal(named.media[0].seen_CHW, named.media[0].clean_CHW)


def test_a_sound_whose_words_have_times_keeps_its_speed() -> None:
    lengths: dict[bool, set[int]] = {True: set(), False: set()}
    for timed, found in lengths.items():
        row = {**SOUND, "segments": [{"start_s": 0.0, "end_s": 0.5, "text": "one"}] if timed else []}
        for seed in range(20):
            sample = sample_of_row(row, MODEL, rng=np.random.default_rng(seed), strength=1.0)
            medium = sample.media[0]
            assert medium.segment(noisy=False).grid[0] * medium.patch[0] == medium.seen_CHW.shape[1]
            assert medium.seen_CHW.shape[1] <= MODEL.modalities["audio"].max_size[0]
            found.add(medium.seen_CHW.shape[1] - medium.clean_CHW.shape[1])
    assert lengths[True] == {0}
    assert len(lengths[False]) > 3
    # Several that all take longer might not fit a row.
    two = {
        **SOUND,
        "messages": [
            message("user", {"type": "audio"}, {"type": "audio"}, "same?"),
            message("assistant", "yes"),
        ],
        "audios": [SOUND["audio"]] * 2,
        "audio": None,
    }
    for seed in range(5):
        for medium in sample_of_row(two, MODEL, rng=np.random.default_rng(seed), strength=1.0).media:
            assert medium.seen_CHW.shape == medium.clean_CHW.shape
            assert not np.array_equal(medium.seen_CHW, medium.clean_CHW)


def test_interleaved_output_continues_behind_a_clean_copy() -> None:
    values = {
        **EDIT,
        "messages": [
            message("user", "draw, then name"),
            message("assistant", {"type": "image"}, "a picture"),
            message("user", "another"),
            message("assistant", "here: ", {"type": "image"}),
        ],
    }
    (document,) = fill(values, "chat")
    assert read(document) == (
        "draw, then name<assistant>[<image><4><4>]<image*>[a picture<eos>]<user>another<assistant>"
        "[here: <image><4><4>]<image*>"
    )
    laid = layout(document.segments, pad_id=TOKENIZER.pad, emb_id=TOKENIZER.emb)
    assert [m.noisy for _, m in laid.media] == [True, False, True]


@pytest.mark.parametrize(
    ("values", "template", "match"),
    [
        (PICTURE, "transcribe", None),
        (PICTURE, "listen", "{chunks} needs audio, the sample has image"),
        (SOUND, "code", "{image} needs image, the sample has audio"),
        (SOUND, "watch", "{video} needs video"),
        (PICTURE, "watch-timed", "{video} needs video"),
        (clip(), "pair", "{target} needs"),
        (PICTURE, "chat", "{chat} needs messages"),
        (row("wordnet"), "pair", "{media} needs media, the sample has no medium"),
    ],
)
def test_what_a_sample_lacks_is_said(values: dict[str, Any], template: str, match: str | None) -> None:
    if match is None:
        fill(values, template)
        return
    with pytest.raises(ValueError, match=match.replace("{", r"\{")):
        fill(values, template)


def test_a_users_template_is_checked_when_it_is_found() -> None:
    own = {"mine": from_dict(Template, json.loads('{"documents": ["{media}{colour}?"], "words": {}}'))}
    with pytest.raises(ValueError, match=r"template 'mine': slot \{colour\} is unknown"):
        find_template("mine", own)
    with pytest.raises(ValueError, match="unknown template 'your'"):
        find_template("your", own)


def test_every_built_in_template_names_known_slots() -> None:
    for name in built_in():
        find_template(name)


def test_typed_control_tokens_stay_text() -> None:
    sample = Sample("x", "s", text="<eos><image>")
    (document,) = build_documents(sample, "text", TOKENIZER, np.random.default_rng(0))
    assert [t for s in document.segments for t in s.token_ids].count(TOKENIZER.eos) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("template", ["pair", "caption", "translate"])
def test_a_sample_without_words_does_not_teach_silence(template: str) -> None:
    with pytest.raises(ValueError, match="needs words, the sample has none"):
        fill({**PICTURE, "text": None, "names": None}, template)
