"""What rows have in common, budgets, and the page that shows it all."""

import io
import itertools
import json
import sys
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sensorium import recipes
from sensorium.data.check import check
from sensorium.data.check_media import Budgets
from sensorium.data.check_report import write_report
from sensorium.data.findings import CheckResult
from sensorium.data.fingerprints import bits_between, near_pairs, repeats
from sensorium.data.scan import Rows, find_shards
from sensorium.data.schema import medium, message, row_from_table
from sensorium.data.splits import split_of
from sensorium.starter import load_table
from tests.data.bad_samples import clip, good_row, picture, sound, write_raw

CONFIG = recipes.get("nano")


def emoji(index: int) -> bytes:
    return bytes(row_from_table(load_table("noto"), index)["image"]["bytes"])


def as_jpeg(data: bytes, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def row(sample_id: str, data: bytes, text: str = "a thing", **columns: object) -> dict:
    return good_row(sample_id, text=text, image=medium(data, "a.webp"), **columns)


def checked(tmp_path: Path, *groups: list[dict], **options: object) -> CheckResult:
    files = []
    for number, rows in enumerate(groups):
        path = tmp_path / f"{number}.parquet"
        write_raw(path, rows)
        files += find_shards(str(path))
    return check(Rows(files), CONFIG, **options)


def found(result: CheckResult, kind: str) -> list[tuple[str, str]]:
    assert result.counts[kind] == len(result.findings.get(kind, []))
    return [(finding.id, finding.reason) for finding in result.findings.get(kind, [])]


def test_real_data_are_clean():
    files = find_shards(str(Path(sys.modules["sensorium.starter"].__file__).parent / "data" / "noto"))
    result = check(Rows(files), CONFIG)
    assert result.num_rows == 510
    assert result.num_media == {"image": 510}
    assert result.kinds() == []


def test_the_same_id_and_the_same_sample(tmp_path):
    rows = [
        row("a", emoji(0)),
        row("b", emoji(0)),
        row("a", emoji(1), "another"),
        row("c", emoji(0), "other words"),
    ]
    result = checked(tmp_path, rows)
    assert found(result, "duplicate") == [("b", "the same media and text as 'a'")]
    assert found(result, "id_twice") == [("a", "the same id as row 0 of 0.parquet ('a')")]
    assert result.num("error") == 1


def test_a_picture_of_many_rows_is_examined_once(tmp_path, monkeypatch):
    """Questions about one picture stand together; what is odd about it is still told of every row."""
    from sensorium.data import check as module

    examined = []

    def examine(kind, data, *rest):
        examined.append(data["bytes"])
        return real(kind, data, *rest)

    real = module.examine
    monkeypatch.setattr(module, "examine", examine)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "white").save(buffer, "PNG")
    blank = buffer.getvalue()
    rows = [row(f"r{n}", blank if n % 2 else emoji(n // 10), f"text {n}") for n in range(20)]
    result = checked(tmp_path, rows)
    assert len(examined) == len({*examined}) == 3
    assert [finding.id for finding in result.findings["blank"]] == [f"r{n}" for n in range(1, 20, 2)]
    examined.clear()
    monkeypatch.setattr(module, "_RECENT_BYTES", 10)  # what is large is not kept
    assert checked(tmp_path, rows).counts == result.counts
    assert len(examined) == 20
    monkeypatch.setattr(module, "_RECENT_BYTES", 2**20)
    examined.clear()
    monkeypatch.setattr(module, "_NUM_RECENT", 1)
    assert checked(tmp_path, rows).counts == result.counts
    assert len(examined) == 20


def test_splits_that_leak(tmp_path):
    concept = next(name for name in ("dog", "cat", "car", "sun") if split_of(name) == "train")
    rows = [
        row("train/1", emoji(0), "One", concept=concept),
        row("test/1", emoji(0), "two", split="test"),
        row("test/2", emoji(1), "three", split="test", concept=concept),
        row("validation/1", emoji(2), "one ", split="validation"),
        row("test/3", emoji(2), "four", split="test"),
        row("train/2", emoji(3), "five", concept=concept),
    ]
    result = checked(tmp_path, rows)
    assert found(result, "leak_medium") == [
        ("test/1", "test: the same medium as 'train/1' in train"),
        ("test/3", "test: the same medium as 'validation/1' in validation"),
    ]
    assert found(result, "leak_concept") == [("test/2", "test: the same concept as 'train/1' in train")]
    assert found(result, "leak_text") == [("validation/1", "validation: the same text as 'train/1' in train")]
    reason = f"concept {concept!r} is in test; by the rule of our data it belongs to train"
    assert found(result, "concept_split") == [("test/2", reason)]
    assert result.num("error") == 2


def test_pictures_that_look_alike(tmp_path):
    pytest.importorskip("imagehash")
    red = np.asarray(Image.open(io.BytesIO(emoji(5))).convert("RGB"))
    buffer = io.BytesIO()
    Image.fromarray(red[..., ::-1]).save(buffer, format="PNG")  # the same shapes, red and blue exchanged
    rows = [
        row("a", emoji(0), "1"),
        row("b", as_jpeg(emoji(0)), "2"),
        row("c", as_jpeg(emoji(0), 70), "3", split="test"),
        row("d", emoji(1), "4"),
        row("e", emoji(5), "5"),
        row("f", buffer.getvalue(), "6"),
    ]
    result = checked(tmp_path, rows)
    assert [name for name, _ in found(result, "near")] == ["b"]
    assert found(result, "near")[0][1].startswith("looks like 'a', ")
    assert [name for name, _ in found(result, "leak_near")] == ["c"]
    assert checked(tmp_path, rows, near_distance=-1).kinds() == []


def test_without_the_library_it_says_what_it_skips(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    result = checked(tmp_path, [row("a", emoji(0), "1"), row("b", as_jpeg(emoji(0)), "2")])
    assert result.kinds() == []
    assert len(result.skipped) == 2
    assert all("pip install 'sensorium[curate]'" in what for what in result.skipped)


def test_near_pairs_are_those_of_comparing_all_with_all():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    hashes = base[rng.integers(0, 40, 300)].copy()
    for index in range(300):  # 0 to 9 bits away from a few centres
        for bit in rng.integers(0, 64, rng.integers(0, 10)):
            hashes[index] ^= np.uint64(1) << np.uint64(bit)
    colours = rng.integers(0, 5, 300).astype(np.uint64) << np.uint64(15)
    for distance in range(8):
        first: dict[tuple[int, int], int] = {}
        for index, look in enumerate(zip(hashes.tolist(), colours.tolist(), strict=True)):
            first.setdefault(look, index)
        kept = sorted(first.values())
        expected = {
            (a, b)
            for a in kept
            for b in kept
            if a < b
            and bin(int(hashes[a]) ^ int(hashes[b])).count("1") <= distance
            and abs(int(colours[a] >> np.uint64(15)) - int(colours[b] >> np.uint64(15))) <= 1
        }
        assert {tuple(pair) for pair in near_pairs(hashes, colours, distance).tolist()} == expected
        assert distance < 3 or expected


def test_near_pairs_of_many_hashes():
    """All with all would be 5,000,000,000 comparisons."""
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**63, 100_000, dtype=np.uint64)
    hashes[77_777] = hashes[123] ^ np.uint64(0b101 << 40)
    pairs = near_pairs(hashes, np.zeros(100_000, np.uint64), 3)
    assert pairs.tolist() == [[123, 77_777]]
    assert bits_between(hashes[pairs[:, 0]], hashes[pairs[:, 1]]).tolist() == [2]


def test_near_pairs_refuses_what_bands_cannot_find():
    with pytest.raises(ValueError, match="near distance 8 bits; give 0 to 7"):
        near_pairs(np.zeros(2, np.uint64), np.zeros(2, np.uint64), 8)


def test_repeats():
    later, first = repeats(np.array([5, 0, 7, 5, 0, 7, 9, 5], np.uint64))
    assert later.tolist() == [3, 5, 7]
    assert first.tolist() == [0, 2, 0]
    assert repeats(np.zeros(0, np.uint64))[0].tolist() == []


def test_paths_that_share_media(tmp_path):
    ours, theirs = [row("a", emoji(0))], [row("b", emoji(0), "other words"), row("c", emoji(1))]
    result = checked(tmp_path, ours, theirs)
    assert found(result, "overlap") == [("b", "the same medium as row 0 of 0.parquet ('a')")]
    assert result.num("error") == 0


def test_budgets(tmp_path):
    rows = [
        row("picture", emoji(0)),
        good_row("sound", text="a word", audio=medium(sound(), "a.ogg")),
        good_row("clip", text="a word or two", video=medium(clip(), "a.mp4")),
        good_row("mute", image=medium(picture("PNG"), "a.png")),
    ]
    assert checked(tmp_path, rows, near_distance=-1).counts == {"no_text": 1}
    small = Budgets(max_pixels=64 * 64 - 1, max_duration_s=0.2, max_bytes=2000)
    result = checked(tmp_path, rows, budgets=small, near_distance=-1)
    reasons = [(name, reason.partition(": ")[2].partition(",")[0]) for name, reason in found(result, "large")]
    assert ("picture", "64 x 64 pixels") in reasons
    assert ("sound", "0.5 s") in reasons
    assert ("clip", "1.1 s") in reasons
    assert ("mute", "64 x 64 pixels") in reasons
    assert any(name == "mute" and "bytes" in reason for name, reason in found(result, "large"))


def test_media_that_a_recipe_does_not_read(tmp_path):
    import dataclasses

    deaf = dataclasses.replace(CONFIG.model, modalities={"image": CONFIG.model.modalities["image"]})
    path = tmp_path / "a.parquet"
    write_raw(path, [good_row("a", text="meow", audio=medium(sound(), "a.ogg")), row("b", emoji(0))])
    result = check(Rows(find_shards(str(path))), dataclasses.replace(CONFIG, model=deaf))
    assert found(result, "not_read") == [("a", "the recipe reads no audio")]


def test_templates_that_are_asked_for(tmp_path):
    path = tmp_path / "a.parquet"
    write_raw(path, [row("a", emoji(0)), good_row("b", text="no picture")])
    result = check(Rows(find_shards(str(path), {"caption": 1.0})), CONFIG)
    [(name, reason)] = found(result, "document")
    assert name == "b"
    assert reason.startswith("template 'caption': ")


def test_memory_does_not_grow_with_the_data(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (130, 130, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    data = buffer.getvalue()
    assert len(data) > 50_000

    def peak_bytes(num_rows: int) -> int:
        path = tmp_path / f"{num_rows}.parquet"
        write_raw(path, [row(f"id {i}", data, f"text {i}") for i in range(num_rows)])
        rows = Rows(find_shards(str(path)))
        tracemalloc.start()
        check(rows, CONFIG, near_distance=-1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(70)  # what is loaded once
    # 5 MB of media more.
    assert peak_bytes(200) - peak_bytes(100) < 2**20


def test_ctrl_c_ends_it(tmp_path):
    write_raw(tmp_path / "a.parquet", [row("a", emoji(0)), row("b", emoji(1))])

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(Rows(find_shards(str(tmp_path))), CONFIG, on_row=interrupt)


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps what a reader of the page depends on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


HOSTILE = '"><script>alert(1)</script><img src=x onerror="alert(2)">'


def test_the_report(tmp_path):
    rows = [
        row(f"id {HOSTILE}", emoji(0), HOSTILE, concept=HOSTILE),
        row("again", emoji(0), HOSTILE, split="test"),
        row("half", emoji(1)[:500], "x"),
        row("turned \u202e", emoji(2), "\x00\x07 bell"),
        good_row("sound", text=HOSTILE, audio=medium(sound(), f"{HOSTILE}.ogg")),
        good_row("clip", text="a clip", video=medium(clip(), "a.mp4")),
        good_row("talk", messages=[message("user", HOSTILE), {"role": "assistant", "content": None}]),
        good_row("null", messages=[None]),
        good_row("long", text="a red car " * 1000),
    ]
    result = checked(tmp_path, rows)
    out = tmp_path / "report.html"
    write_report(out, result, [HOSTILE], "nano")
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.of("script")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(attributes["src"].startswith("data:") for attributes in page.of("img") + page.of("audio"))
    assert all(attributes["alt"] for attributes in page.of("img"))
    assert all(attributes["aria-label"] for attributes in page.of("audio"))
    assert "http" not in text.replace("http-equiv", "")
    assert "\u202e" not in text
    assert "\x07" not in text
    headings = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    for kind in result.kinds():
        assert any(attributes.get("id") == kind for attributes in page.of("h3")), kind
        for finding in result.findings[kind]:
            if finding.id.isascii():
                assert finding.name in page.words, (kind, finding)
    assert {attributes["href"][1:] for attributes in page.of("a")} == set(result.kinds())
    # A picture, a spectrogram with its player, frames, and the bytes of what does not decode.
    assert len(page.of("audio")) == 1
    assert any(attributes["alt"].startswith("frames of") for attributes in page.of("img"))
    assert "500 bytes that do not decode as image: 52 49 46 46" in page.words
    json.dumps([finding.as_dict() for kind in result.kinds() for finding in result.findings[kind]])


def test_the_report_of_clean_data(tmp_path):
    result = checked(tmp_path, [row("a", emoji(0))])
    write_report(tmp_path / "report.html", result, ["data"], "nano")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Nothing was found." in page.words
    assert len(page.of("img")) == 1
