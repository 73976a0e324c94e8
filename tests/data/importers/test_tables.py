"""CSV, TSV and JSON lines with paths, through the command line."""

import json
from pathlib import Path

import pytest

from sensorium.cli import main
from sensorium.data.importers.base import Options
from sensorium.data.importers.records import text_records
from tests.data.importers.conftest import Import, Row


@pytest.fixture
def root(tmp_path: Path, pictures: list[Row], sounds: list[Row]) -> Path:
    (tmp_path / "média").mkdir()
    for index, row in enumerate(pictures[:4]):
        (tmp_path / "média" / f"{index}.webp").write_bytes(row["image"]["bytes"])
    for index, row in enumerate(sounds[:2]):
        (tmp_path / "média" / f"{index}.ogg").write_bytes(row["audio"]["bytes"])
    return tmp_path


def test_csv_with_mark_quotes_and_line_breaks(bring: Import, root: Path, pictures: list[Row]) -> None:
    text = (
        "image,caption,label,split,license,author,score\r\n"
        'média/0.webp,"a ""quoted"", two-line\ncaption",lorry,train,MIT,Ann,1\r\n'
        "média/1.webp,plain,,val,,,\r\n"
    )
    (root / "data.csv").write_bytes("\ufeff".encode() + text.encode())
    done = bring(root / "data.csv")
    first, second = done.rows["data-00000000"], done.rows["data-00000001"]
    assert first["image"] == {"bytes": pictures[0]["image"]["bytes"], "path": "0.webp"}
    assert (first["text"], first["concept"]) == ('a "quoted", two-line\ncaption', "lorry")
    assert (first["license"], first["attribution"], first["metadata"]) == ("MIT", "Ann", {"score": "1"})
    assert (first["split"], second["split"], second["license"]) == ("train", "validation", "unknown")


@pytest.mark.parametrize(("encoding", "option"), [("utf-16", ""), ("cp1252", "cp1252"), ("utf-8", "")])
def test_csv_in_other_encodings(bring: Import, root: Path, encoding: str, option: str) -> None:
    (root / "data.csv").write_text("image;text\nmédia/0.webp;déjà vu\n", encoding=encoding)
    row = bring(root / "data.csv", *(("--encoding", option) if option else ())).one()
    assert row["text"] == "déjà vu"
    assert row["image"]["path"] == "0.webp"


def test_an_encoding_that_cannot_be_told_is_asked_for(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "data.csv").write_text("image,text\nmédia/0.webp,x\n", encoding="cp1252")
    assert main(["data", "import", str(root / "data.csv"), "--out", str(root / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "0xe9" in said
    assert "--encoding cp1252" in said
    assert not (root / "out").exists()


def test_tsv_as_common_voice_has_it(bring: Import, root: Path, sounds: list[Row]) -> None:
    (root / "train.tsv").write_text(
        "client_id\tpath\tsentence\tlocale\n1\t0.ogg\tGuten Tag\tde\n2\t1.ogg\tHallo\tde\n"
    )
    done = bring(root / "train.tsv", "--media-root", str(root / "média"))
    assert [row["audio"]["bytes"] for row in done.rows.values()] == [s["audio"]["bytes"] for s in sounds[:2]]
    row = done.rows["train-00000000"]
    assert (row["text"], row["language"], row["split"]) == ("Guten Tag", "de", "train")
    assert row["metadata"] == {"client_id": "1"}


def test_json_lines_with_broken_ones(bring: Import, root: Path) -> None:
    lines = [
        json.dumps({"file_name": "média/0.webp", "text": "one", "names": {"de": "eins"}}),
        "",
        '{"file_name": "média/1.webp", "text": ',
        json.dumps(["not", "an", "object"]),
        json.dumps({"file_name": "média/0.ogg", "segments": [{"start_s": 0, "end_s": 1.5, "text": "hi"}]}),
        json.dumps({"file_name": "média/2.webp", "names": ["no", "dictionary"]}),
        '{"file_name": "média/3.webp", "text": "\\ud800"}',
        "[" * 100_000,
    ]
    (root / "metadata.jsonl").write_bytes("\n".join(lines).encode())
    done = bring(root)  # as a folder: its one table is found
    assert set(done.rows) == {"metadata-00000000", "metadata-00000003"}
    assert done.rows["metadata-00000000"]["names"] == {"de": "eins"}
    assert done.rows["metadata-00000003"]["segments"] == [{"start_s": 0.0, "end_s": 1.5, "text": "hi"}]
    assert done.rows["metadata-00000003"]["audio"]["path"] == "0.ogg"
    reasons = list(done.rejected.values())
    for reason, fragment in zip(
        reasons, ("line 3: is not JSON", "holds a list", "'names'", "not text", "line 8"), strict=True
    ):
        assert fragment in reason


def test_paths_stay_inside_the_root(bring: Import, tmp_path: Path, pictures: list[Row]) -> None:
    data = pictures[0]["image"]["bytes"]
    root = tmp_path / "root"
    (root / "img").mkdir(parents=True)
    (root / "img" / "ok.webp").write_bytes(data)
    (tmp_path / "secret.webp").write_bytes(data)
    (root / "link.webp").symlink_to(tmp_path / "secret.webp")
    (root / "linked").symlink_to(tmp_path)
    paths = {
        "../secret.webp": "outside the media root",
        str(tmp_path / "secret.webp"): "outside the media root",
        "img/../../secret.webp": "outside the media root",
        "link.webp": "outside the media root",
        "linked/secret.webp": "outside the media root",
        "..\\secret.webp": "outside the media root",
        "/etc/passwd": "outside the media root",
        "img": "is not a file",
        "gone.webp": "does not exist",
        "a\0b.webp": "is no path",
        "https://example.org/cat.webp": "nothing is fetched",
        "file:///etc/passwd": "nothing is fetched",
    }
    good = ["img/ok.webp", "img\\ok.webp", str(root / "img" / "ok.webp"), "img/../img/ok.webp"]
    lines = [json.dumps({"image": path}) for path in [*good, *paths]]
    (root / "data.jsonl").write_text("\n".join(lines))
    done = bring(root / "data.jsonl")
    assert [row["image"]["bytes"] for row in done.rows.values()] == [data] * len(good)
    assert len(done.rejected) == len(paths)
    for (path, fragment), reason in zip(paths.items(), done.rejected.values(), strict=True):
        assert fragment in reason, path


def test_rows_that_do_not_fit_the_header(bring: Import, root: Path) -> None:
    (root / "data.csv").write_text(
        'image,text\nmédia/0.webp,a,b\nmédia/1.webp\n\nmédia/2.webp,"fine, so"\n,\n'
    )
    done = bring(root / "data.csv")
    assert done.one()["text"] == "fine, so"
    for fragment, reason in zip(("3 fields", "1 fields", "neither"), done.rejected.values(), strict=True):
        assert fragment in reason


def test_columns_are_chosen_by_the_user(bring: Import, root: Path, pictures: list[Row]) -> None:
    (root / "data.csv").write_text("uid,thumb,full,alt,text\nq7,média/0.webp,média/1.webp,words,other\n")
    row = bring(root / "data.csv", "--columns", "image=full,text=alt,id=uid").one()
    assert (row["id"], row["text"], row["image"]["bytes"]) == ("q7", "words", pictures[1]["image"]["bytes"])
    assert row["metadata"] == {"thumb": "média/0.webp", "text": "other"}


@pytest.mark.parametrize(
    ("columns", "fragment"),
    [
        ("image=fulll", "has no column 'fulll'"),
        ("picture=full", "the nearest is"),
        ("image", "image=COLUMN"),
        ("", "say which do, as in --columns"),
    ],
)
def test_mistakes_in_columns(
    root: Path, capsys: pytest.CaptureFixture[str], columns: str, fragment: str
) -> None:
    (root / "data.csv").write_text("full,x\nmédia/0.webp,1\n")
    line = ["data", "import", str(root / "data.csv"), "--out", str(root / "out"), "--columns", columns]
    assert main(line) == 2
    assert fragment in capsys.readouterr().err.splitlines()[-1]


def test_a_json_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    """Chunk borders fall everywhere: in strings, escapes, between records; a broken record is one."""
    records = [{"n": n, "text": 'brackets ]}[{ "quoted" \\ é 猫' * (n % 50)} for n in range(3000)]
    pieces = [
        json.dumps(record, ensure_ascii=n % 2 == 0, indent=n % 3 or None) for n, record in enumerate(records)
    ]
    pieces[1500] = '{"n": 1500, "broken": [1, 2,}'
    path = tmp_path / "data.json"
    path.write_text("[\n" + ",\n".join(pieces[:1500]) + ",\n" + ",".join(pieces[1501:]) + "\n]\n")
    whole = list(text_records(path, Options()))
    assert [r.values for r in whole] == [r for r in records if r["n"] != 1500]
    path.write_text("[" + ",".join([*pieces[:10], '{"n": {"a": oops}}', *pieces[10:20]]) + "]")
    found = list(text_records(path, Options()))
    assert [bool(record.error) for record in found] == [False] * 10 + [True] + [False] * 10
    path.write_text("[" + ",".join(pieces[:10]) + ',{"n": 7, "text": "cut o')
    found = list(text_records(path, Options()))
    assert [bool(record.error) for record in found] == [False] * 10 + [True]
    assert "cut off" in found[-1].error
    path.write_text("[" + ",".join(pieces[:10]) + ",")
    assert "cut off" in list(text_records(path, Options()))[-1].error
