"""``sensorium data import``: interrupted, continued, bounded in memory, and clear about mistakes."""

import json
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from sensorium.data.importers import Options, Progress, choose_format, import_data
from sensorium.data.importers.media import Files
from sensorium.starter import load_table
from tests.cli.conftest import COMMAND, ENVIRONMENT, Run, assert_mistake


def write_folder(root: Path, count: int) -> Path:
    """Pictures with their words; every fiftieth is broken."""
    rows = load_table("noto").to_pylist()
    for number in range(count):
        folder = root / f"{number // 200:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        row = rows[number % len(rows)]
        data = b"<html>" if number % 50 == 49 else row["image"]["bytes"]
        (folder / f"{number:05d}.webp").write_bytes(data)
        (folder / f"{number:05d}.txt").write_text(row["text"])
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 700)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an import that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    summary = import_data(photos, out, format="folder", options=Options(license="MIT"), shard_bytes=SHARD)
    assert (summary.num_rows, summary.num_rejected) == (686, 14)
    files = contents(out)
    assert len(files) > 5
    return files


SHARD = 104_857  # 0.1 MiB
LINE = ("--out", "out", "--shard-mb", "0.1", "--license", "MIT")


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}


def noted(out: Path) -> set[str]:
    """Files that the note of progress counts as finished."""
    try:
        return {shard["name"] for shard in json.loads((out / "progress.json").read_text())["shards"]}
    except FileNotFoundError:
        return set()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_import_goes_on(
    photos: Path, whole: dict[str, bytes], tmp_path: Path, command: Run, kind: signal.Signals
) -> None:
    out = tmp_path / "out"
    line = [str(COMMAND), "data", "import", str(photos), *LINE]
    for _ in range(5):  # on a busy machine the import may be done before the signal arrives
        shutil.rmtree(out, ignore_errors=True)
        process = subprocess.Popen(
            line, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not noted(out) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(kind)
        _, said = process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode != 0
    if kind == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on with out" in said
    finished = noted(out)
    assert finished
    assert finished < set(whole)
    before = {name: (out / name).stat().st_mtime_ns for name in finished}
    done = command("data", "import", photos, *LINE)
    assert done.returncode == 0, done.stderr
    assert contents(out) == whole
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())
    again = command("data", "import", photos, *LINE)
    assert_mistake_last(again, "holds finished shards already")


def assert_mistake_last(done: "subprocess.CompletedProcess[str]", *fragments: str) -> None:
    """As `assert_mistake`, after the line that says which format was found."""
    assert done.stderr.startswith("found ")
    _, _, rest = done.stderr.partition("\n")
    assert_mistake(subprocess.CompletedProcess(done.args, done.returncode, done.stdout, rest), *fragments)


def test_continuing_reads_no_finished_media(
    photos: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at(rows: int) -> Callable[[Progress], None]:
        def show(progress: Progress) -> None:
            if progress.num_rows >= rows:
                raise KeyboardInterrupt

        return show

    read: list[str] = []
    original = Files.read

    def count(self: Files, kind: str, reference: object) -> dict[str, object]:
        read.append(str(reference))
        return original(self, kind, reference)

    monkeypatch.setattr(Files, "read", count)
    options = Options(license="MIT")
    for rows in (200, 400, 650):
        with pytest.raises(KeyboardInterrupt):
            import_data(
                photos,
                tmp_path / "out",
                format="folder",
                options=options,
                shard_bytes=SHARD,
                on_progress=stop_at(rows),
            )
        assert read
    del read[:]
    import_data(photos, tmp_path / "out", format="folder", options=options, shard_bytes=SHARD)
    assert contents(tmp_path / "out") == whole
    assert len(read) < 350  # of 700: the rows of the open shards alone


def test_another_question_does_not_go_on(photos: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_data(photos, tmp_path / "out", format="folder", options=Options(), on_progress=stop)
    with pytest.raises(ValueError, match="holds the beginning of something else"):
        import_data(photos, tmp_path / "out", format="folder", options=Options(license="MIT"))


def peak_of(path: Path, out: Path) -> int:
    format, _, path = choose_format(path, "auto", Options())
    tracemalloc.start()
    try:
        import_data(path, out, format=format, options=Options(), shard_bytes=2**16)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "tar", "parquet"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, form: str) -> None:
    """Eight times the rows, the same peak; tracemalloc counts what Python holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import webdataset

    from sensorium.data.schema import MEDIUM

    row = load_table("noto").slice(0, 1).to_pylist()[0]
    (tmp_path / "a.webp").write_bytes(row["image"]["bytes"])
    words = "words " * 120

    def write(count: int) -> Path:
        path = tmp_path / f"{count}.{form}"
        records = [{"image": "a.webp", "text": f"{words} {n}"} for n in range(count)]
        if form == "csv":
            path.write_text("image,text\n" + "".join(f"a.webp,{r['text']}\n" for r in records))
        elif form == "jsonl":
            path.write_text("".join(json.dumps(r) + "\n" for r in records))
        elif form == "json":
            turns = [{"from": "human", "value": "<image>" + words}, {"from": "gpt", "value": words}]
            path.write_text(
                json.dumps([{"image": "a.webp", "conversations": turns} for _ in records], indent=1)
            )
        elif form == "tar":
            with webdataset.TarWriter(str(path)) as writer:
                for number, record in enumerate(records):
                    writer.write(
                        {"__key__": f"{number}", "webp": row["image"]["bytes"], "txt": record["text"]}
                    )
        else:
            media = pa.array([row["image"]] * count, MEDIUM)
            texts = pa.array([r["text"] for r in records])
            pq.write_table(pa.table({"image": media, "text": texts}), path, row_group_size=60)
        return path

    peak_of(write(200), tmp_path / "warm")  # modules, caches, and the interpreter's own tables
    few = peak_of(write(60), tmp_path / "few")
    many = peak_of(write(480), tmp_path / "many")
    assert many < few * 1.3 + 200_000, (few, many)


def test_a_report_for_programs_and_people(photos: Path, command: Run) -> None:
    done = command("data", "import", photos, "--out", "one", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["num_rows"], told["num_rejected"], told["ok"], told["format"]) == (686, 14, True, "folder")
    assert sum(told["counts"].values()) == 686
    assert "found media files" in done.stderr
    assert "license is noted as unknown; say it with --license" in done.stderr
    done = command("data", "import", photos, "--out", "two", "--max-bad", "0.01")
    assert done.returncode == 1
    assert done.stdout.startswith("two: 686 samples (")
    assert "rejected 000/00049: 000/00049.webp: is a text file" in done.stdout
    assert "2.0% of the samples were rejected, --max-bad allows 1.0%" in done.stderr


def test_help_names_every_format(command: Run) -> None:
    done = command("data", "import", "--help")
    assert done.returncode == 0
    for name in ("folder", "webdataset", "img2dataset", "llava", "llama-factory", "swift", "trl", "medical"):
        assert f"  {name} " in done.stdout
    assert "--media-root" in done.stdout
    assert command("data", "export", "--help").returncode == 0


def test_mistakes(here: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.docx").write_bytes(b"PK")
    for line, fragments in (
        (["gone", "--out", "o"], ["gone", "no such file or folder"]),
        ([photos], ["--out is missing"]),
        (["--out", "o"], ["0 inputs"]),
        (["empty", "--out", "o"], ["holds no files"]),
        (["page.html", "--out", "o"], ["not known", ".parquet"]),
        (["words", "--out", "o"], ["a.docx", "nothing that is known"]),
        ([photos, "--out", "o", "--format", "foldr"], ["'folder'"]),
        ([photos, "--out", "o", "--split", "dev"], ["'dev'", "validation"]),
        ([photos, "--out", photos / "o"], ["lies in the folder"]),
        ([photos, "--out", "o", "--max-bad", "5"], ["--max-bad"]),
        ([photos, "--out", "o", "--media-root", "gone"], ["--media-root"]),
        ([photos, "--out", "o", "--encoding", "utf-99"], ["utf-99"]),
    ):
        done = here("data", "import", *line)
        if done.stderr.startswith("found "):
            assert_mistake_last(done, *fragments)
        else:
            assert_mistake(done, *fragments)
    assert not (tmp_path / "o").exists()


def test_a_bar_where_there_is_a_terminal(photos: Path, tmp_path: Path) -> None:
    """In a real terminal, a bar with the time left; the result stays readable."""
    import os
    import pty

    main, side = pty.openpty()
    line = [sys.executable, "-m", "sensorium.cli", "data", "import", str(photos), *LINE]
    process = subprocess.Popen(
        line, cwd=tmp_path, stdout=side, stderr=side, env={**ENVIRONMENT, "TERM": "xterm"}
    )
    os.close(side)
    seen = b""
    while True:
        try:
            block = os.read(main, 65536)
        except OSError:  # the other side has closed
            break
        if not block:
            break
        seen += block
    os.close(main)
    assert process.wait(60) == 0
    assert b"samples, " in seen
    assert "━" in seen.decode("utf-8", "replace")
    assert b"out: 686 samples" in seen


def test_plain_lines_where_there_is_none(here: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensorium.commands.data import import_

    monkeypatch.setattr(import_, "PLAIN_EVERY_S", 0.0)
    done = here("data", "import", photos, "--out", "out", "--license", "MIT", "--attribution", "Ann")
    lines = done.stderr.splitlines()[1:]
    assert len(lines) >= 600
    assert lines[-1].startswith(f"importing {photos.name}: 100%")
    assert "samples, 14 rejected, about 0 s left" in lines[-1]
