"""Conversations as the documentation of each tool shows them, and TRL's through TRL."""

import base64
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import trl

from tests.data.importers.conftest import Import, Row


@pytest.fixture
def root(tmp_path: Path, pictures: list[Row], sounds: list[Row]) -> Path:
    (tmp_path / "media").mkdir()
    for index, row in enumerate(pictures[:4]):
        (tmp_path / "media" / f"{index}.webp").write_bytes(row["image"]["bytes"])
    for index, row in enumerate(sounds[:2]):
        (tmp_path / "media" / f"{index}.ogg").write_bytes(row["audio"]["bytes"])
    return tmp_path


def said(row: Row) -> list[tuple[str, list[str]]]:
    """Roles and parts; a placeholder reads <image>."""
    return [
        (
            turn["role"],
            [part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in turn["content"]],
        )
        for turn in row["messages"]
    ]


def llava(value: str, answer: str = "A cat.", **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    return {"id": "000000033471", "conversations": turns, **more}


def test_llava(bring: Import, root: Path, pictures: list[Row]) -> None:
    records = [
        llava("<image>\nWhat is this?", image="media/0.webp"),
        llava("What is this?\n<image>", image="media/0.webp"),
        llava("Is <image>like<image>\n?", image=["media/1.webp", "media/2.webp"], source="mix"),
        llava("Words alone"),
        llava("<image>\nWhat moves?", video="media/3.webp"),
    ]
    (root / "llava.json").write_text(json.dumps(records))
    done = bring(root / "llava.json")
    assert (done.summary["format"], done.rejected) == ("llava", {})
    rows = list(done.rows[f"llava-{n:08d}"] for n in range(5))
    assert said(rows[0]) == [("user", ["<image>", "What is this?"]), ("assistant", ["A cat."])]
    assert said(rows[1])[0] == ("user", ["What is this?", "<image>"])
    assert said(rows[2])[0] == ("user", ["Is ", "<image>", "like", "<image>", "?"])
    assert [m["bytes"] for m in rows[2]["images"]] == [p["image"]["bytes"] for p in pictures[1:3]]
    assert said(rows[3])[0] == ("user", ["Words alone"])
    assert said(rows[4])[0] == ("user", ["<video>", "What moves?"])
    assert rows[4]["videos"][0]["bytes"] == pictures[3]["image"]["bytes"]
    assert rows[0]["metadata"] == {"id": "000000033471"}
    # The same picture twice must not lie in two splits.
    assert rows[0]["split"] == rows[1]["split"]


@pytest.mark.parametrize(
    ("record", "fragment"),
    [
        (llava("<image> and <image>", image="media/0.webp"), "2 image placeholder(s) but 1 image(s)"),
        (llava("no tag", image="media/0.webp"), "0 image placeholder(s) but 1 image(s)"),
        (llava("<image>\nwho took it?"), "1 image placeholder(s) but 0 image(s)"),
        (llava("<image> <audio>", image="media/0.webp"), "1 audio placeholder(s) but 0 audio(s)"),
        (llava("<image>", image="media/gone.webp"), "does not exist"),
        (llava("<image>", image="../up.webp"), "outside the media root"),
        (llava("<image>", image="https://example.org/a.jpg"), "nothing is fetched"),
        (llava("<image>", image="media/0.ogg"), "expected a picture"),
        (llava("<image>", "", image="media/0.webp"), "turn 2 (assistant) is empty"),
        (llava("<image>", image=7), "no image is given (7)"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "'observation' is not one of"),
        ({"conversations": "hi"}, "expected a list of turns"),
        ({"conversations": ["hi"]}, "expected an object with a role"),
        ({"conversations": []}, "there is no turn"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a content is a int"),
        ({"conversations": [{"from": "human", "value": "x"}], "chosen": {}, "rejected": {}}, "preferences"),
    ],
)
def test_what_cannot_be_used_says_why(
    bring: Import, root: Path, record: dict[str, Any], fragment: str
) -> None:
    (root / "data.json").write_text(json.dumps([record, llava("fine")]))
    done = bring(root / "data.json", "--format", "llava")
    assert list(done.rows) == ["data-00000001"]
    assert fragment in done.rejected["data-00000000"]


SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "<image>What, and <audio>?"},
        {"from": "gpt", "value": "A truck."},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": "Yes."},
    ],
    "system": "Be short.",
    "images": ["media/0.webp"],
    "audios": ["media/0.ogg"],
}
OPENAI = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "<image>Who is it?"},
        {"role": "assistant", "content": "A duck."},
    ],
    "images": ["media/1.webp"],
}
ALPACA = {
    "instruction": "Name it.",
    "input": "<image>",
    "output": "A bus.",
    "system": "Be short.",
    "history": [["Hello", "Hi."]],
    "images": ["media/2.webp"],
}


def test_llama_factory_with_its_info(
    bring: Import, root: Path, pictures: list[Row], sounds: list[Row]
) -> None:
    info = {
        "talk": {
            "file_name": "talk.json",
            "formatting": "sharegpt",
            "columns": {
                "messages": "conversations",
                "system": "system",
                "images": "images",
                "audios": "audios",
            },
        },
        "open": {
            "file_name": "open.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        },
        "orders": {
            "file_name": "orders.jsonl",
            "columns": {"prompt": "ask", "query": "input", "response": "output", "history": "history"},
        },
        "far": {"hf_hub_url": "somebody/something"},
    }
    (root / "dataset_info.json").write_text(json.dumps(info))
    (root / "talk.json").write_text(json.dumps([SHAREGPT], indent=2))
    (root / "open.json").write_text(json.dumps([OPENAI]))
    alpaca = {("ask" if key == "instruction" else key): value for key, value in ALPACA.items()}
    (root / "orders.jsonl").write_text(json.dumps(alpaca) + "\n")
    done = bring(root)
    assert (done.summary["format"], len(done.rows), done.rejected) == ("llama-factory", 3, {})
    talk, openai, orders = (done.rows[f"{name}-00000000"] for name in ("talk", "open", "orders"))
    assert said(talk) == [
        ("system", ["Be short."]),
        ("user", ["<image>", "What, and ", "<audio>", "?"]),
        ("assistant", ["A truck."]),
        ("user", ["Sure?"]),
        ("assistant", ["Yes."]),
    ]
    assert talk["images"][0]["bytes"] == pictures[0]["image"]["bytes"]
    assert talk["audios"][0]["bytes"] == sounds[0]["audio"]["bytes"]
    assert said(openai)[0] == ("system", ["Be kind."])
    assert openai["images"][0]["bytes"] == pictures[1]["image"]["bytes"]
    assert said(orders) == [
        ("system", ["Be short."]),
        ("user", ["Hello"]),
        ("assistant", ["Hi."]),
        ("user", ["Name it.", "<image>"]),
        ("assistant", ["A bus."]),
    ]
    assert orders["images"][0]["bytes"] == pictures[2]["image"]["bytes"]
    one = bring(root / "orders.jsonl", "--format", "llama-factory", out="one")
    assert one.one()["messages"] == orders["messages"]


@pytest.mark.parametrize("record", [SHAREGPT, ALPACA])
def test_llama_factory_is_told_by_its_columns(bring: Import, root: Path, record: dict[str, Any]) -> None:
    (root / "x.json").write_text(json.dumps([record]))
    done = bring(root / "x.json")
    assert (done.summary["format"], len(done.rows)) == ("llama-factory", 1)


def test_swift(bring: Import, root: Path, pictures: list[Row]) -> None:
    data = base64.b64encode(pictures[3]["image"]["bytes"]).decode()
    typed = [
        {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{data}"}},
        {"type": "text", "text": "And this?"},
    ]
    records = [
        {
            "messages": [
                {"role": "user", "content": "<image><image>Same?"},
                {"role": "assistant", "content": "No."},
            ],
            "images": ["media/0.webp", "media/1.webp"],
        },
        {  # without a tag, media come first
            "messages": [
                {"role": "system", "content": "Listen."},
                {"role": "user", "content": "What is it?"},
                {"role": "assistant", "content": "Rain."},
            ],
            "audios": ["media/0.ogg"],
        },
        {"query": "<image>Name it.", "response": "A bus.", "images": ["media/2.webp"]},
        {"messages": [{"role": "user", "content": typed}, {"role": "assistant", "content": "A car."}]},
        {"messages": [{"role": "user", "content": "<image>a<image>"}], "images": ["media/0.webp"]},
    ]
    (root / "swift.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    done = bring(root / "swift.jsonl")
    assert (done.summary["format"], len(done.rows)) == ("swift", 4)
    rows = list(done.rows[f"swift-{n:08d}"] for n in range(4))
    assert said(rows[0])[0] == ("user", ["<image>", "<image>", "Same?"])
    assert [m["bytes"] for m in rows[0]["images"]] == [p["image"]["bytes"] for p in pictures[:2]]
    assert said(rows[1])[1] == ("user", ["<audio>", "What is it?"])
    assert said(rows[2]) == [("user", ["<image>", "Name it."]), ("assistant", ["A bus."])]
    assert said(rows[3])[0] == ("user", ["<image>", "And this?"])
    assert rows[3]["images"][0] == {"bytes": pictures[3]["image"]["bytes"], "path": "image.webp"}
    assert "2 image placeholder(s) but 1 image(s)" in done.rejected["swift-00000004"]


def trl_examples() -> list[dict[str, Any]]:
    text = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A bus."}]
    typed = [
        {
            "role": "user",
            "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A bus."}]},
    ]
    return [
        {"messages": text},
        {"messages": typed},
        {"prompt": typed[:1], "completion": typed[1:]},
        {"prompt": text[:1], "completion": text[1:]},
        {"prompt": "What is it?", "completion": "A bus."},
    ]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_trl(bring: Import, root: Path, pictures: list[Row], number: int, suffix: str) -> None:
    """What TRL itself takes for its example is imported to what TRL itself makes of it."""
    example = trl_examples()[number]
    assert trl.is_conversational(example) == (number != 4)
    stored = [p["image"] for p in pictures[:1]] if suffix == ".parquet" else ["media/0.webp"]
    features = datasets.Dataset.from_list([example]).features
    if suffix == ".parquet":
        features = datasets.Features({**features, "images": datasets.List(datasets.Image())})
    made = datasets.Dataset.from_list(
        [{**example, "images": stored}], features=features if suffix == ".parquet" else None
    )
    path = root / f"train{suffix}"
    made.to_parquet(str(path)) if suffix == ".parquet" else made.to_json(str(path))
    done = bring(path, "--format", "trl")
    row = done.one()
    given = example.get("messages") or [
        *(
            example["prompt"]
            if isinstance(example["prompt"], list)
            else [{"role": "user", "content": example["prompt"]}]
        ),
        *(
            example["completion"]
            if isinstance(example["completion"], list)
            else [{"role": "assistant", "content": example["completion"]}]
        ),
    ]
    prepared = trl.prepare_multimodal_messages(
        [
            {
                **m,
                "content": m["content"]
                if isinstance(m["content"], str)
                else [{k: v for k, v in p.items() if v} for p in m["content"]],
            }
            for m in given
        ],
        images=["media/0.webp"],
    )
    expected = [
        (m["role"], [p["text"] if p["type"] == "text" else "<image>" for p in m["content"]]) for m in prepared
    ]
    assert said(row) == expected == [("user", ["<image>", "What is it?"]), ("assistant", ["A bus."])]
    assert row["images"] == [{**pictures[0]["image"], "path": row["images"][0]["path"]}]
    assert row["split"] == "train"


def test_trl_takes_tags_for_words_where_there_are_no_media(bring: Import, root: Path) -> None:
    turns = [
        {"role": "user", "content": "What does <image> mean?"},
        {"role": "assistant", "content": "A tag."},
    ]
    (root / "x.jsonl").write_text(json.dumps({"messages": turns}))
    row = bring(root / "x.jsonl", "--format", "trl").one()
    assert said(row)[0] == ("user", ["What does <image> mean?"])


def test_trl_placeholders_must_equal_media(bring: Import, root: Path) -> None:
    part = {"type": "image"}
    turns = [{"role": "user", "content": [part, part]}, {"role": "assistant", "content": "x"}]
    (root / "x.jsonl").write_text(json.dumps({"messages": turns, "images": ["media/0.webp"]}))
    done = bring(root / "x.jsonl", "--format", "trl")
    assert "2 image placeholder(s) but 1 image(s)" in done.rejected["x-00000000"]
    assert (done.rows, done.code) == ({}, 0)  # --max-bad 1 allows it
