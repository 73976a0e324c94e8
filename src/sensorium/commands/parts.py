"""What a person types as a part of a prompt -> text, a picture, a sound or a video; and the model they name.

photo.png, ~/a.wav   an existing file with the suffix of a picture, a sound or a video
@photo.png           always a file
text:photo.png       always words
-                    words from standard input
anything else        words
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sensorium.media.image import too_many_bytes
from sensorium.media.parts import Audio, Image, Video
from sensorium.media.video import VideoLimits, count_tracks

if TYPE_CHECKING:
    from sensorium.generate.interface import Model

STARTER = "starter"
SUFFIXES: dict[str, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"),
    "audio": (
        *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".webm"),
        *(".aif", ".aiff", ".aifc", ".g722"),
    ),
    "video": (".mp4", ".m4v", ".mov", ".mkv"),
}
Medium = Image | Audio | Video
PARTS: dict[str, type[Medium]] = {"image": Image, "audio": Audio, "video": Video}
SYNTAX = """Parts:
  photo.png       an existing picture, sound or video, told by its suffix
  @photo.png      the same, always taken for a file
  text:photo.png  always taken for words
  -               words from standard input
  anything else   words"""


def modality_of_path(path: Path) -> str | None:
    """The kind of medium whose files have this suffix: a modality, or "video"."""
    return next((name for name, suffixes in SUFFIXES.items() if path.suffix.lower() in suffixes), None)


def read_part(argument: str) -> str | Medium:
    """One part as typed.

    Raises:
        ValueError: it is empty, or a file of no known kind.
        FileNotFoundError: a file that is not there; a mistyped name is never taken for words.
    """
    if argument == "-":
        argument = "text:" + sys.stdin.read().rstrip("\n")
    if argument.startswith("text:"):
        return _words(argument.removeprefix("text:"))
    if argument.startswith("@"):
        return read_medium(argument[1:])
    if modality_of_path(Path(argument)) is None:
        if os.path.isdir(os.path.expanduser(argument)):
            print(
                f"{argument} is taken for words, and a folder of that name is here; name its files",
                file=sys.stderr,
            )
        return _words(argument)
    if not os.path.isfile(os.path.expanduser(argument)):
        raise FileNotFoundError(
            f"{argument}: no such file; check the path, or write text:{argument!r} if you mean the words"
        )
    return read_medium(argument)


def read_medium(name: str, modality: str | None = None) -> Medium:
    """A file as a part; its bytes are read later, when the model needs them."""
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for a user it does not know
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{name or '@'}: no such file; check the path (relative to {Path.cwd()})")
    chosen = modality or modality_of_path(path)
    if chosen is None:
        known = " ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
        raise ValueError(
            f"{name}: the suffix {path.suffix!r} is of no known picture, sound or video; expected {known}"
        )
    if not modality and path.suffix.lower() == ".webm":
        num_bytes, most = path.stat().st_size, VideoLimits().max_bytes
        if num_bytes > most:
            raise too_many_bytes(name, num_bytes, most)
        chosen = "video" if count_tracks(path.read_bytes())[0] else "audio"
    return PARTS[chosen](path)


def check_part(part: str | Medium) -> str | Medium:
    """Decode a medium, so that a broken file is told at once, before a model is loaded or more is typed."""
    if isinstance(part, Image):
        part.pixels()
    elif isinstance(part, Audio):
        part.waveform()
    elif isinstance(part, Video):
        part.frames()
    return part


def open_model(name: str, weights: str = "float32") -> "Model":
    """The starter model, a model folder or a run folder; for ``weights`` see ``sensorium.load``."""
    from sensorium.generate.interface import load

    return load(starter_model() if name == STARTER else os.path.expanduser(name), weights=weights)  # type: ignore[arg-type]


def starter_model() -> Path:
    """The folder of the model that ships with the package.

    Raises:
        FileNotFoundError: none ships with this version.
    """
    import sensorium.starter

    folder = getattr(sensorium.starter, "STARTER_MODEL", None)
    if folder is None or not Path(folder).is_dir():
        raise FileNotFoundError(
            "no starter model ships with this version; train one with `sensorium pretrain-demo` "
            "and name its folder with --model"
        )
    return Path(folder)


def _words(text: str) -> str:
    if not text.strip():
        raise ValueError("the prompt is empty; give some text, a picture or a sound")
    return text
