"""Duplicates: what is the same stays once, and test never loses to training."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sensorium.commands.data.curating import ModelByName
from sensorium.data import duplicates, near_vectors
from sensorium.data.duplicates import NearIndex, Signatures, find_duplicates, near_hashers
from sensorium.data.engines import compute, find_units
from sensorium.data.schema import medium, message
from sensorium.data.shards import write_shard
from sensorium.media.image import decode_image
from sensorium.starter import load_table

pytest.importorskip("imagehash")
pytest.importorskip("datasketch")

BASE = {"split": "train", "source": "test", "license": "CC0-1.0", "attribution": "nobody"}
Row = dict[str, Any]


def pictures(number: int) -> list[Row]:
    return load_table("noto").slice(0, number).to_pylist(maps_as_pydicts="strict")


def recoded(row: Row, scale: float = 0.9) -> dict[str, Any]:
    """The same picture as a smaller JPEG."""
    picture = Image.fromarray(decode_image(row["image"]["bytes"]))
    buffer = io.BytesIO()
    size = (round(picture.width * scale), round(picture.height * scale))
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return medium(buffer.getvalue(), "again.jpg")


def jaccard(a: str, b: str) -> float:
    one, two = duplicates.shingles(a), duplicates.shingles(b)
    return len(one & two) / len(one | two)


def removed(rows: list[Row], folder: Path, job: Signatures, **options: Any) -> dict[str, str]:
    """The reasons by id."""
    (folder / "in").mkdir(exist_ok=True)
    write_shard(folder / "in" / "a.parquet", rows)
    results = compute(find_units([folder / "in"]), job, folder / "work")
    verdicts = find_duplicates(results, **options)
    found = [verdict["reason"] for number in range(len(results.units)) for verdict in verdicts(number)]
    return {row["id"]: reason for row, reason in zip(rows, found, strict=True) if reason}


EXACT = Signatures(exact=True, near=False)
NEAR = Signatures(exact=False, near=True)


def test_the_first_of_equal_samples_stays(tmp_path: Path) -> None:
    rows = pictures(4)
    rows += [{**rows[1], "id": "second"}, {**rows[1], "id": "third"}, {**rows[1], "id": "other", "text": "x"}]
    first = rows[1]["id"]
    assert removed(rows, tmp_path, EXACT) == {
        "second": f"exact: the same as {first}",
        "third": f"exact: the same as {first}",
    }


@pytest.mark.parametrize(
    ("compare", "gone"), [("all", {"b"}), ("media", {"b", "other words"}), ("text", {"b", "other picture"})]
)
def test_what_is_compared_decides(tmp_path: Path, compare: str, gone: set[str]) -> None:
    one, two = pictures(2)
    rows = [
        {**one, "id": "a"},
        {**one, "id": "b"},
        {**one, "id": "other words", "text": "something else altogether"},
        {**one, "id": "other picture", "image": two["image"]},
    ]
    for job in (EXACT, NEAR):
        assert (
            set(removed(rows, tmp_path / job_name(tmp_path, job), dataclasses.replace(job, compare=compare)))
            == gone
        )


def job_name(tmp_path: Path, job: Signatures) -> str:
    name = "near" if job.near else "exact"
    (tmp_path / name).mkdir()
    return name


@pytest.mark.parametrize("job", [EXACT, NEAR], ids=["exact", "near"])
def test_training_loses_what_test_has_whatever_the_order(tmp_path: Path, job: Signatures) -> None:
    one, two = pictures(2)
    rows = [
        {**one, "id": "train", "split": "train"},
        {**one, "id": "validation", "split": "validation"},
        {**one, "id": "test", "split": "test"},
        {**two, "id": "train 2", "split": "train"},
        {**two, "id": "validation 2", "split": "validation"},
    ]
    assert set(removed(rows, tmp_path, job)) == {"train", "validation", "train 2"}


def test_pictures_that_look_alike_are_found_and_others_are_not(tmp_path: Path) -> None:
    originals = pictures(100)
    copies = [{**row, "id": f"{row['id']}/again", "image": recoded(row)} for row in originals]
    job = dataclasses.replace(NEAR, compare="media")
    found = removed(originals + copies, tmp_path, job)
    right = [
        name for name, reason in found.items() if reason == f"near: much like {name.removesuffix('/again')}"
    ]
    assert len(right) >= 95
    assert set(found) == set(right)


def test_a_recoloured_picture_is_another(tmp_path: Path) -> None:
    look, _ = near_hashers()
    red = np.full((32, 32, 3), (200, 30, 30), np.uint8)
    blue = np.full((32, 32, 3), (30, 30, 200), np.uint8)
    assert look(red)[0] == look(blue)[0]
    rows = []
    for name, colour in (("red", red), ("blue", blue)):
        buffer = io.BytesIO()
        Image.fromarray(colour).save(buffer, "PNG")
        rows.append({**BASE, "id": name, "text": "a square", "image": medium(buffer.getvalue(), "a.png")})
    assert removed(rows, tmp_path, NEAR) == {}


def test_texts_that_read_alike_are_found_and_others_are_not(tmp_path: Path) -> None:
    texts = [text for text in load_table("wordnet").slice(0, 400)["text"].to_pylist() if len(text) > 60]
    rows = [{**BASE, "id": f"{number}", "text": text} for number, text in enumerate(texts)]
    changed = [{**BASE, "id": f"{n}/again", "text": f"{text.upper()} !"} for n, text in enumerate(texts)]
    found = removed(rows + changed, tmp_path, NEAR)
    right = [name for name in found if name.endswith("/again")]
    assert len(texts) > 150
    assert len(right) >= 0.99 * len(texts)
    # Measured: of the glosses themselves two, which differ in their first word or so.
    others = {int(name): int(reason.split()[-1]) for name, reason in found.items() if name not in right}
    assert len(others) <= 2
    for one, two in others.items():
        assert jaccard(texts[one], texts[two]) > 0.75


def test_questions_about_one_picture_are_not_duplicates(tmp_path: Path) -> None:
    row = pictures(1)[0]

    def asked(name: str, question: str) -> Row:
        content = message("user", {"type": "image"}, question), message("assistant", "yes")
        return {**BASE, "id": name, "messages": list(content), "images": [row["image"]]}

    rows = [
        asked("a", "is there a gamepad?"),
        asked("b", "is the gamepad purple?"),
        asked("c", "is there a gamepad?"),
    ]
    assert set(removed(rows, tmp_path, NEAR)) == {"c"}
    (tmp_path / "media").mkdir()
    job = dataclasses.replace(NEAR, compare="media")
    assert set(removed(rows, tmp_path / "media", job)) == {"b", "c"}


def test_sounds_are_compared_by_their_bytes(tmp_path: Path) -> None:
    one, two = load_table("scratch").slice(0, 2).to_pylist(maps_as_pydicts="strict")
    rows = [
        {**BASE, "id": "a", "audio": one["audio"]},
        {**BASE, "id": "b", "audio": two["audio"]},
        {**BASE, "id": "c", "audio": one["audio"]},
    ]
    assert removed(rows, tmp_path, NEAR) == {"c": "near: much like a"}


def test_what_does_not_decode_is_rejected(tmp_path: Path) -> None:
    rows = pictures(3)
    rows[1]["image"] = medium(rows[1]["image"]["bytes"][:200], "cut.webp")
    found = removed(rows, tmp_path, NEAR)
    assert list(found) == [rows[1]["id"]]
    assert found[rows[1]["id"]].startswith("media: cut.webp")


@given(
    st.integers(0, 2**64 - 1),
    st.sets(st.integers(0, 63), max_size=duplicates.MAX_DISTANCE),
    st.integers(0, duplicates.MAX_DISTANCE),
)
def test_every_hash_within_the_distance_is_found_and_no_other(
    look: int, flips: set[int], distance: int
) -> None:
    index = NearIndex(distance, 0.8)

    def signature(value: int) -> Row:
        return {"looks": [value], "colours": [0], "minhash": None, "unseen_near": b""}

    index.add(signature(look), 7)
    other = look
    for bit in flips:
        other ^= 1 << bit
    assert index.find(signature(other)) == (7 if len(flips) <= distance else None)


def test_the_number_of_comparisons_does_not_grow_with_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    num_compared = 0
    alike = NearIndex._alike

    def counted(self: NearIndex, a: Row, b: Row) -> bool:
        nonlocal num_compared
        num_compared += 1
        return alike(self, a, b)

    monkeypatch.setattr(NearIndex, "_alike", counted)
    rng = np.random.default_rng(0)
    index = NearIndex(4, 0.8)
    looks = [int(value) for value in rng.integers(0, 2**63, 5_000)]
    texts = rng.integers(0, 2**32, (5_000, duplicates.NUM_PERMUTATIONS)).astype("<u4")
    for number, (look, text) in enumerate(zip(looks, texts, strict=True)):
        for entry in (
            {"looks": [look], "colours": [0], "minhash": None, "unseen_near": b""},
            {"looks": [], "colours": [], "minhash": text.tobytes(), "unseen_near": b""},
        ):
            assert index.find(entry) is None
            index.add(entry, number)
    assert num_compared < 2 * 5_000  # all with all would be 12.5 million, twice


def clustered(num_items: int, copies: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors, of which the last ones are near the first."""
    vectors = rng.normal(size=(num_items, dim)).astype(np.float32)
    vectors[-copies:] = vectors[:copies] + 0.1 * rng.normal(size=(copies, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_near_vectors_are_those_of_comparing_all_with_all() -> None:
    rng = np.random.default_rng(1)
    vectors = np.stack([clustered(2_500, 900, 24, rng), clustered(2_500, 900, 24, rng)])
    kept: list[int] = []
    wanted = np.full(2_500, -1)
    for item in range(2_500):
        near = (vectors[:, kept] @ vectors[:, item, :, None])[..., 0].min(axis=0) >= 0.95
        if near.any():
            wanted[item] = kept[int(near.argmax())]
        else:
            kept.append(item)
    assert (wanted >= 0).sum() > 300
    assert near_vectors.near_vectors(vectors, 0.95).tolist() == wanted.tolist()


def test_cells_find_nearly_all_near_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_vectors, "_CELL_ROWS", 200)
    vectors = clustered(8_000, 2_000, 32, np.random.default_rng(2))[None]
    exact = near_vectors.near_vectors(vectors, 0.95)
    cells = near_vectors.near_vectors(vectors, 0.95, exact_rows=100)
    num_exact = int((exact >= 0).sum())
    assert num_exact > 1_000
    assert (exact[cells >= 0] == cells[cells >= 0]).all()
    assert (cells >= 0).sum() >= 0.99 * num_exact


def test_samples_with_near_vectors_are_found(tmp_path: Path) -> None:
    rows = pictures(30)
    rows += [{**row, "id": f"{row['id']}/again", "image": recoded(row)} for row in rows[:10]]
    sound = load_table("scratch").slice(0, 1).to_pylist(maps_as_pydicts="strict")[0]
    rows += [sound, {**sound, "id": "sound/again"}]
    job = Signatures(exact=False, near=False, model=ModelByName.of("starter"))
    # Measured: the same again at least 0.978, any two others at most 0.69.
    found = removed(rows, tmp_path, job, cosine=0.95)
    again = {row["id"] for row in rows if row["id"].endswith("/again")}
    assert again <= set(found)
    # No other; the text is compared too, and every original has its own.
    assert set(found) == again
    assert found["sound/again"] == f"embedding: much like {sound['id']}"
