"""Conversations of LLaVA, LLaMA-Factory, ms-swift and TRL, as messages of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensorium.data.importers.base import Draft, Options, find_files, metadata_of, split_in_path, stated_split
from sensorium.data.importers.columnar import COLUMNAR_SUFFIXES, columnar_records
from sensorium.data.importers.media import Files
from sensorium.data.importers.ours import is_ours, restored
from sensorium.data.importers.records import TEXT_SUFFIXES, Record, drafts_of, text_records
from sensorium.data.schema import MEDIA_LISTS

INFO_NAME = "dataset_info.json"
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
}
_TAG = re.compile(r"<(image|audio|video)>")
# Part types of the OpenAI API and of Qwen-VL's messages, with the key of what they carry.
_PART_KINDS = {
    **dict.fromkeys(("image", "image_url", "input_image"), "image"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "audio"),
    **dict.fromkeys(("video", "video_url"), "video"),
}
_PREFERENCES = {"chosen", "rejected", "rejected_response", "rejected_messages", "kto_tag"}

Turn = tuple[str, Any]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one tool writes conversations.

    Args:
        columns: what the tool calls a column, to its name in this table.
        tags: media stand in strings as `<image>`, `<audio>`, `<video>`; False: only where there are media of
            that kind, and otherwise the words mean themselves.
        puts_first: media without any placeholder belong before the words of the first user turn.
        roles: names of roles in this table to ours.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tags: bool = True
    puts_first: bool = False
    role_key: str = "from"
    content_key: str = "value"
    roles: Mapping[str, str] = field(default_factory=lambda: _ROLES)


LLAVA = Dialect()
SWIFT = Dialect(puts_first=True, role_key="role", content_key="content")
TRL = Dialect(tags=False, puts_first=True, role_key="role", content_key="content")


def read_llava(path: Path, options: Options) -> Iterator[Draft]:
    """`conversations` of `from` and `value`, media in `image` or `video`."""
    return _read(path, options, LLAVA)


def read_swift(path: Path, options: Options) -> Iterator[Draft]:
    """`messages` (or `query` and `response`) with lists `images`, `audios` and `videos`."""
    return _read(path, options, SWIFT)


def read_trl(path: Path, options: Options) -> Iterator[Draft]:
    """`messages`, or `prompt` and `completion`, as text, messages or typed parts, with `images`."""
    return _read(path, options, TRL)


def read_llama_factory(path: Path, options: Options) -> Iterator[Draft]:
    """Sharegpt and alpaca tables, with the columns and tags that `dataset_info.json` gives them."""
    info = path if path.name == INFO_NAME else (path if path.is_dir() else path.parent) / INFO_NAME
    entries = info_entries(info)
    if path.is_file() and path != info:
        entry = next((e for e in entries.values() if e["file_name"] == path.name), {})
        yield from _read(path, options, _factory_dialect(entry))
        return
    if not entries:
        raise ValueError(f"{info} describes no local file (file_name); give the data file itself")
    for number, entry in enumerate(entries.values()):
        for draft in _read(info.parent / entry["file_name"], options, _factory_dialect(entry), info.parent):
            at = (number + draft.at) / len(entries)
            yield Draft(draft.id, draft.load, draft.split, draft.group, at)


def info_entries(info: Path) -> dict[str, dict[str, Any]]:
    """The data files that a `dataset_info.json` describes, by name of the data set; {} without such a file."""
    if not info.is_file():
        return {}
    try:
        noted = json.loads(info.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{info}: is not JSON ({error}); mend it") from None
    named = noted.items() if isinstance(noted, dict) else ()
    return {n: e for n, e in named if isinstance(e, dict) and isinstance(e.get("file_name"), str)}


def _factory_dialect(entry: Mapping[str, Any]) -> Dialect:
    tags = entry.get("tags") or {}
    roles = {tags[f"{role}_tag"]: role for role in ("user", "assistant", "system") if f"{role}_tag" in tags}
    return Dialect(
        columns=entry.get("columns") or {},
        role_key=tags.get("role_tag", "from"),
        content_key=tags.get("content_tag", "value"),
        roles={**_ROLES, **roles},
    )


def _read(path: Path, options: Options, dialect: Dialect, base: Path | None = None) -> Iterator[Draft]:
    files = find_files(path, (*TEXT_SUFFIXES, *COLUMNAR_SUFFIXES))
    files = [found for found in files if found[0].name != INFO_NAME]
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check {INFO_NAME}")
    for number, (file, name) in enumerate(files):
        root = Path(options.media_root) if options.media_root else base or file.parent
        maker = _Maker(Files(root, allow_outside=options.allow_outside), dialect, name)
        is_columnar = file.suffix.lower() in COLUMNAR_SUFFIXES
        records = columnar_records(file) if is_columnar else text_records(file, options)
        span = (number / len(files), (number + 1) / len(files))
        yield from drafts_of(records, name, span, maker)


class _Maker:
    """Makes drafts of the records of one table."""

    def __init__(self, files: Files, dialect: Dialect, name: str) -> None:
        self.files, self.dialect, self.split = files, dialect, split_in_path(name)

    def __call__(self, record: Record, sample_id: str) -> Draft:
        values = record.values
        if is_ours(values):
            return restored(values, self.files)
        media = [values.get(key) for key in ("image", "images", "audio", "audios", "video", "videos")]
        group = next((v[0] if isinstance(v, list) else v for v in media if v and not callable(v)), "")
        return Draft(
            sample_id,
            lambda: self._load(values),
            stated_split(values.get("split")) or self.split,
            group if isinstance(group, str) else "",
        )

    def _load(self, values: Mapping[str, Any]) -> dict[str, Any]:
        values = {key: value() if callable(value) else value for key, value in values.items()}
        if preference := sorted(_PREFERENCES & {k for k, v in values.items() if v is not None}):
            raise ValueError(
                f"column {preference[0]!r}: pairs of preferences are not samples; keep the better answer"
            )
        used: set[str] = {"split", "messages", "conversations", "conversation", "text"}
        turns = list(self._turns(values, used))
        references = self._references(values, used)
        if not turns and isinstance(values.get("text"), str):
            row: dict[str, Any] = {"text": values["text"]}
            for kind, given in references.items():
                if len(given) > 1:
                    raise ValueError(f"{len(given)} {kind}s beside a text; use messages for more than one")
                if given:
                    row[kind] = self.files.read(kind, given[0])
        else:
            row = convert(turns, references, self.files, self.dialect)
        language = values.get("language")
        if isinstance(language, str):
            row["language"] = language
            used.add("language")
        row["metadata"] = metadata_of(values, used)
        return row

    def _column(self, values: Mapping[str, Any], used: set[str], *names: str) -> Any:
        for name in names:
            column = self.dialect.columns.get(name, name)
            if values.get(column) not in (None, "", []):
                used.add(column)
                return values[column]
        return None

    def _turns(self, values: Mapping[str, Any], used: set[str]) -> Iterator[Turn]:
        """Roles and contents, whichever of the known layouts the record has."""
        given = self._column(values, used, "messages", "conversations", "conversation")
        turns = list(self._messages(given)) if given is not None else []
        system = self._column(values, used, "system")
        if system is not None and not (turns and turns[0][0] == "system"):
            yield "system", system
        if given is not None:
            yield from turns
            return
        prompt = self._column(values, used, "prompt", "instruction")
        query = self._column(values, used, "query", "input")
        answer = self._column(values, used, "completion", "response", "output")
        for pair in self._column(values, used, "history") or []:
            yield from zip(("user", "assistant"), pair, strict=True)
        if isinstance(prompt, list):
            yield from self._messages(prompt)
        elif prompt is not None or query is not None:
            yield "user", "\n".join(str(text) for text in (prompt, query) if text is not None)
        if isinstance(answer, list):
            yield from self._messages(answer)
        elif answer is not None:
            yield "assistant", answer

    def _messages(self, given: Any) -> Iterator[Turn]:
        if not isinstance(given, list):
            raise ValueError(f"the messages are a {type(given).__name__}; expected a list of turns")
        for number, turn in enumerate(given, 1):
            if not isinstance(turn, Mapping):
                raise ValueError(f"turn {number} is a {type(turn).__name__}; expected an object with a role")
            # A table may use either pair of names, whatever its tool.
            pairs = (
                (self.dialect.role_key, self.dialect.content_key),
                ("role", "content"),
                ("from", "value"),
            )
            role_key, content_key = next((pair for pair in pairs if pair[0] in turn), pairs[0])
            role = self.dialect.roles.get(str(turn.get(role_key)))
            if role is None:
                known = "system, user (human) and assistant (gpt); turns of tools are not read"
                raise ValueError(f"turn {number}: role {turn.get(role_key)!r} is not one of {known}")
            yield role, turn.get(content_key)

    def _references(self, values: Mapping[str, Any], used: set[str]) -> dict[str, list[Any]]:
        found = {}
        for kind, column in MEDIA_LISTS.items():
            value = self._column(values, used, column, kind)
            found[kind] = value if isinstance(value, list) else [] if value is None else [value]
        return found


def convert(
    turns: Sequence[Turn], references: Mapping[str, list[Any]], files: Files, dialect: Dialect
) -> dict[str, Any]:
    """Messages and media lists of a sample.

    Args:
        turns: roles and contents; a content is a string or a list of typed parts.
        references: by kind, the media that placeholders stand for, in order.

    Raises:
        ValueError: placeholders and media differ in number, or a turn is empty or not understood.
    """
    if not turns:
        raise ValueError("there is no turn; expected messages, conversations, or a prompt and its answer")
    split_tags = {kind for kind in MEDIA_LISTS if dialect.tags or references[kind]}
    messages: list[dict[str, Any]] = [
        {"role": role, "content": list(_parts(content, split_tags))} for role, content in turns
    ]
    waiting = [part for message in messages for part in message["content"] if part["type"] != "text"]
    # LLaVA's video data say <image> for their one video.
    if references["video"] and not references["image"] and not any(p["type"] == "video" for p in waiting):
        for part in waiting:
            part["type"] = "video" if part["type"] == "image" and "reference" not in part else part["type"]
    for kind in MEDIA_LISTS:
        places = [part for part in waiting if part["type"] == kind and "reference" not in part]
        if not places and references[kind] and dialect.puts_first:
            first = next((m for m in messages if m["role"] == "user"), messages[0])
            places = [{"type": kind} for _ in references[kind]]
            first["content"][:0] = places
        if len(places) != len(references[kind]):
            raise ValueError(
                f"{len(places)} {kind} placeholder(s) but {len(references[kind])} {kind}(s); give one for each, "
                "in order"
            )
        for part, reference in zip(places, references[kind], strict=True):
            part["reference"] = reference
    return _row(messages, files)


def _row(messages: list[dict[str, Any]], files: Files) -> dict[str, Any]:
    """Read the media in the order of their placeholders."""
    row: dict[str, Any] = {"messages": []}
    for number, message in enumerate(messages, 1):
        if not message["content"]:
            if message["role"] == "system":
                continue
            raise ValueError(f"turn {number} ({message['role']}) is empty; give its words or drop the sample")
        content = []
        for part in message["content"]:
            if part["type"] != "text":
                row.setdefault(MEDIA_LISTS[part["type"]], []).append(
                    files.read(part["type"], part["reference"])
                )
            content.append({"type": part["type"], "text": part.get("text")})
        row["messages"].append({"role": message["role"], "content": content})
    return row


def _parts(content: Any, split_tags: set[str]) -> Iterator[dict[str, Any]]:
    """Parts of a turn: text, and placeholders with the reference that they may carry themselves."""
    if content is None:
        return
    if isinstance(content, str):
        yield from _split(content, split_tags)
        return
    if not isinstance(content, list):
        raise ValueError(f"a content is a {type(content).__name__}; expected text or a list of parts")
    for part in content:
        if isinstance(part, str):
            yield from _split(part, split_tags)
        elif not isinstance(part, Mapping):
            raise ValueError(f"a part is a {type(part).__name__}; expected text or an object with a type")
        elif (kind := part.get("type")) in ("text", "input_text"):
            if part.get("text"):
                yield {"type": "text", "text": part["text"]}
        elif kind in _PART_KINDS:
            carried = next((part[k] for k in (kind, _PART_KINDS[kind], "url", "path") if part.get(k)), None)
            found = {"type": _PART_KINDS[kind]}
            yield found if carried is None else {**found, "reference": carried}
        else:
            raise ValueError(f"part type {kind!r} is not one of text, image, audio and video")


def _split(text: str, split_tags: set[str]) -> Iterator[dict[str, Any]]:
    """Cut a string at its tags; the line breaks that set a tag off go with it."""
    at = 0
    for tag in _TAG.finditer(text):
        if tag[1] not in split_tags:
            continue
        before = text[at : tag.start()].strip("\n")
        if before.strip():
            yield {"type": "text", "text": before}
        yield {"type": tag[1]}
        at = tag.end()
    rest = text[at:].lstrip("\n") if at else text
    if rest.strip():
        yield {"type": "text", "text": rest}
