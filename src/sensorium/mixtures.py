"""What the recipes are trained on: sources, their weights and their templates."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sensorium.config import SourceConfig

STARTER_SOURCES = (
    SourceConfig(path="starter:noto", weight=18, templates={"pair": 1, "embed": 2}),
    SourceConfig(path="starter:fluent", weight=18, templates={"pair": 1, "embed": 2}),
    SourceConfig(path="starter:openclipart", weight=3, templates={"embed": 1}),
    # Few steps: what hardly sounds like itself any more is not learned in so many.
    SourceConfig(path="starter:scratch", weight=5, templates={"pair": 1, "align": 1}, augment=0.2),
    SourceConfig(path="starter:sonic-pi", weight=2, templates={"pair": 1, "align": 1}, augment=0.2),
    SourceConfig(path="starter:asterisk-en", weight=1, templates={"transcribe": 1, "speak": 1}),
    SourceConfig(path="starter:asterisk-fr", weight=1, templates={"transcribe": 1, "speak": 1}),
    SourceConfig(path="starter:easy-vqa", weight=46, templates={"chat": 1}, augment=0.0),
    SourceConfig(path="starter:wordnet", weight=1, templates={"text": 1}),
)


# Where `sensorium data build starter` puts the full starter data unless told otherwise.
FULL_DATA = "data/starter"


def _full(name: str, weight: float, templates: dict[str, float], **options: Any) -> SourceConfig:
    return SourceConfig(path=f"{FULL_DATA}/{name}", weight=weight, templates=templates, **options)


# A sound and its letters: what a toy version of `hearing` learns.
SPOKEN_SOURCES = (SourceConfig(path="starter:asterisk-en", weight=1, templates={"spell": 1.0}),)
_NAMED = {"pair": 2.0, "embed": 1.0, "caption": 0.5, "translate": 0.5}
# Named, but not drawn: a name alone does not say in which style.
_SEEN = {"align": 2.0, "embed": 1.5, "caption": 0.3, "translate": 0.4}
_SPOKEN = {"transcribe": 2.0, "speak": 1.0}
FULL_SOURCES = (
    _full("noto", 8, _NAMED),
    _full("fluent", 8, _NAMED),
    _full("fluent-flat", 3, _SEEN),
    _full("noto-v1", 3, _SEEN),
    _full("emojitwo", 2, _SEEN),
    _full("fxemoji", 1, _SEEN),
    _full("fluent-color", 2, _SEEN),
    _full("fluent-high-contrast", 2, _SEEN),
    _full("emojitwo-monotone", 1, _SEEN),
    _full("tuxpaint", 4, _NAMED),
    _full("openclipart", 8, {"pair": 1, "embed": 1}),
    _full("pysiogame", 2, _NAMED),
    _full("scratch-pictures", 1, {"pair": 1}),
    _full("gcompris", 1, {"pair": 1}),
    _full("tuxpaint-speech", 6, {"transcribe": 2, "speak": 1, "see-hear": 1, "describe-aloud": 1}),
    _full("synthetic-speech", 6, {"transcribe": 2, "speak": 1, "pair": 0.5}),
    _full("composed-prompts", 12, {"transcribe": 1}),
    _full("composed-prompts-piper", 3, {"transcribe": 1}),
    _full("composed-prompts-hibari", 6, {"transcribe": 1}),
    _full("asterisk-en", 3, _SPOKEN),
    _full("asterisk-fr", 1, _SPOKEN),
    _full("asterisk-es", 1, _SPOKEN),
    _full("asterisk-it", 1, _SPOKEN),
    _full("asterisk-ru", 1, _SPOKEN),
    _full("klettres", 1, {"transcribe": 1}),
    _full("ktuberling", 1, _SPOKEN),
    *(
        _full(name, weight, {"pair": 1, "align": 1}, cut=True)
        for name, weight in (
            ("tuxpaint-sounds", 1),
            ("gcompris-sounds", 1),
            ("scratch", 2),
            ("sonic-pi", 1),
            ("wesnoth", 2),
        )
    ),
    _full("wordnet", 4, {"text": 1}),
    _full("easy-vqa", 16, {"chat": 1}, keep_pixels=True),
    _full("lucide", 3, {"chat": 1}, augment=0.0),
    _full("tabler", 5, {"chat": 1}, augment=0.0),
    _full("fluent-animated", 3, {"watch": 1}),
    _full("brain", 3, {"chat": 1}, augment=0.0),
    _full("edits", 10, {"chat": 1}, augment=0.0),
    _full("edits-scratch", 1, {"chat": 1}, augment=0.0),
    _full("edits-tuxpaint", 2, {"chat": 1}, augment=0.0),
)
# The second stage: what people made and said, the questions and the edits; no glosses, no synthetic voices.
CLEAN_SOURCES = tuple(
    source
    for source in FULL_SOURCES
    if source.path.rpartition("/")[2] not in {"wordnet", "synthetic-speech", "openclipart", "klettres"}
    and "composed-prompts" not in source.path
)

# For hours of a few cores rather than of a GPU: the sources that are taken, and their weights. Pictures, questions and
# edits have the most. Left out: drawings as code, whose answers are long, and spoken letters.
STARTER_WEIGHTS = {
    "noto": 16,
    "fluent": 15,
    "fluent-flat": 6,
    "noto-v1": 5,
    "emojitwo": 4,
    "fxemoji": 2,
    "fluent-color": 4,
    "fluent-high-contrast": 4,
    "emojitwo-monotone": 3,
    "tuxpaint": 5,
    "openclipart": 4,
    "pysiogame": 1,
    "scratch-pictures": 1,
    "gcompris": 1,
    "easy-vqa": 32,
    "edits": 24,
    "edits-tuxpaint": 3,
    "edits-scratch": 1,
    "tuxpaint-sounds": 1,
    "gcompris-sounds": 0.5,
    "scratch": 2,
    "sonic-pi": 1,
    "wesnoth": 2,
    "composed-prompts": 16,
    "composed-prompts-piper": 4,
    "composed-prompts-hibari": 8,
    "synthetic-speech": 10,
    "asterisk-en": 4,
    "asterisk-fr": 1,
    "asterisk-es": 0.25,
    "asterisk-it": 0.25,
    "asterisk-ru": 0.25,
    "tuxpaint-speech": 2,
    "ktuberling": 0.5,
    "wordnet": 1,
    "fluent-animated": 2,
    "brain": 2,
}
# The second stage, as the model that ships was last trained: edits, emoji in nine styles (two of them drawn), questions and
# speech; of the rest enough not to forget it.
STARTER_CLEAN_WEIGHTS = {
    "edits": 27,
    "edits-tuxpaint": 4.5,
    "edits-scratch": 2,
    "noto": 9.5,
    "fluent": 9,
    "fluent-flat": 4,
    "noto-v1": 4,
    "emojitwo": 3,
    "fxemoji": 1.5,
    "fluent-color": 2.5,
    "fluent-high-contrast": 2.5,
    "emojitwo-monotone": 2,
    "tuxpaint": 1.5,
    "openclipart": 0.5,
    "pysiogame": 0.2,
    "scratch-pictures": 0.3,
    "gcompris": 0.2,
    "easy-vqa": 15,
    "composed-prompts": 5.5,
    "composed-prompts-piper": 1.2,
    "composed-prompts-hibari": 3,
    "synthetic-speech": 2.5,
    "asterisk-en": 2.2,
    "asterisk-fr": 0.4,
    "asterisk-es": 0.1,
    "asterisk-it": 0.1,
    "asterisk-ru": 0.1,
    "tuxpaint-speech": 1,
    "ktuberling": 0.2,
    "tuxpaint-sounds": 0.6,
    "gcompris-sounds": 0.3,
    "scratch": 1.5,
    "sonic-pi": 0.8,
    "wesnoth": 1.5,
    "fluent-animated": 1.5,
    "brain": 1.5,
    "wordnet": 0.3,
}


def full_sources(
    weights: Mapping[str, float], templates: Mapping[str, dict[str, float]] | None = None
) -> tuple[SourceConfig, ...]:
    """Sources of the full starter data by name, each with its weight and, where given, other templates."""
    templates = templates or {}
    named = {source.path.rpartition("/")[2]: source for source in FULL_SOURCES}
    return tuple(
        dataclasses.replace(named[name], weight=weight, templates=templates.get(name, named[name].templates))
        for name, weight in weights.items()
    )
