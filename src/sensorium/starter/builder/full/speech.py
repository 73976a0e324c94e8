"""Every spoken prompt of Asterisk that has a transcript, in five languages."""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any

from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.full.shared import mono, says, speech_clip, tidy, trim_speech
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import Package, fetch, read_members
from sensorium.starter.builder.speech import SPELLINGS, decode_g722


def _package(name: str, sha256: str) -> Package:
    file_name = f"{name}_1.6.1-1_all.deb"
    return Package(client="apt", name=name, version="1.6.1-1", file_name=file_name, sha256=sha256)


ASTERISK_ES = _package(
    "asterisk-core-sounds-es-g722", "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8"
)
ASTERISK_ES_TEXT = _package(
    "asterisk-core-sounds-es", "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74"
)
ASTERISK_IT = _package(
    "asterisk-core-sounds-it-g722", "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016"
)
ASTERISK_IT_TEXT = _package(
    "asterisk-core-sounds-it", "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b"
)
ASTERISK_RU = _package(
    "asterisk-core-sounds-ru-g722", "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b"
)
ASTERISK_RU_TEXT = _package(
    "asterisk-core-sounds-ru", "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab"
)
_SOURCE_RATE = 16_000
# Prompts that are tones, silence or a list of all characters, and a breath before a wrong transcript.
_SKIPPED = re.compile(r"^(spy-|silence/|vm-Cust|beep|confbridge-(join|leave)$|\w+ending-2tone)")
# Stage directions, alternatives and protocols that the voice spells in its own way.
_UNSURE = re.compile(r"[\[\](){}<>@*/\d]|DAHDI|IAX|Inter-Asterisk|H\.323|PRESIDENTE")
_SIGN = re.compile(r"\s*\[[^\w\s]?\s?\]\s*")
_DURATION_RATIO = (0.4, 2.2)


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One language: its packages, its speaker, and what transcripts write as digits."""

    language: str
    sounds: Package
    texts: Package
    credit: str
    license: str
    digits: str


VOICES = (
    Voice(
        language="en",
        sounds=pinned.ASTERISK_EN,
        texts=pinned.ASTERISK_EN_TEXT,
        credit="spoken by Allison Smith",
        license="CC-BY-SA-3.0",
        digits="zero one two three four five six seven eight nine",
    ),
    Voice(
        language="fr",
        sounds=pinned.ASTERISK_FR,
        texts=pinned.ASTERISK_FR_TEXT,
        credit="spoken by June Wallack; translated by Clod Patry, Kristopher Lalletti and June Wallack",
        license="CC-BY-SA-3.0",
        digits="zéro un deux trois quatre cinq six sept huit neuf",
    ),
    Voice(
        language="es",
        sounds=ASTERISK_ES,
        texts=ASTERISK_ES_TEXT,
        credit="Copyright 2003-2010 Allison Smith",
        license="CC-BY-SA-3.0",
        digits="cero uno dos tres cuatro cinco seis siete ocho nueve",
    ),
    Voice(
        language="it",
        sounds=ASTERISK_IT,
        texts=ASTERISK_IT_TEXT,
        credit="spoken by Carlo Flora, translated by Silvia Petrin (http://www.segreterietelefoniche.it)",
        license="CC-BY-3.0",
        digits="zero uno due tre quattro cinque sei sette otto nove",
    ),
    Voice(
        language="ru",
        sounds=ASTERISK_RU,
        texts=ASTERISK_RU_TEXT,
        credit="Copyright 2010 Maxim Topal (http://www.ivrvoice.ru)",
        license="CC-BY-3.0",
        digits="ноль один два три четыре пять шесть семь восемь девять",
    ),
)
# The Spanish transcripts lack most accents; a word stands for its spelling without them.
_SPANISH = (
    "número numérico extensión contraseña contraseñas autenticación más opción grabación buzón teléfono "
    "telefónico después conexión reproducción menú información demostración configuración código último "
    "útil también séptimo décimo técnica unirá unirán será intentaré guiaré línea líder inválido inválida "
    "válido vacías vigésimo veintitrés veintiséis veintidós trigésimo única rápidamente sábado próximo "
    "propósito millón miércoles mañana japón introducción ingresará físico exclamación están estándar "
    "duración duodécimo dólar dólares búsqueda ayudarán aún atrás tendrá navegará comenzará "
    "comprendí escucharás días índice día adiós aquí allí teléfonos números mensajería"
)


def prompt_rows(folder: Path, voice: Voice) -> Iterator[dict[str, Any]]:
    """Yield one row per prompt of a voice whose transcript is what is said; the same recording only once."""
    said = prompt_texts(fetch(voice.texts, folder), voice)
    source = f"asterisk-{voice.language}"
    heard: set[str] = set()
    for name, data in read_members(fetch(voice.sounds, folder), lambda name: name.endswith(".g722")):
        prompt = name.split("/", 5)[-1].removesuffix(".g722")
        digest = sha1(data).hexdigest()
        if prompt not in said or digest in heard:
            continue
        heard.add(digest)
        text = said[prompt]
        waveform = mono(decode_g722(data), _SOURCE_RATE)
        speech = trim_speech(waveform) if waveform is not None else None
        if speech is None or not says(speech, text, _DURATION_RATIO):
            continue
        yield {
            "id": f"{source}/{prompt}",
            "split": split_of(text),
            "language": voice.language,
            "source": source,
            "license": voice.license,
            "attribution": f"Asterisk core sounds, {voice.credit} (https://www.asterisk.org); trimmed and levelled",
            "text": text,
            "audio": speech_clip(speech, Path(prompt).name),
            "metadata": {"voice": source, "category": prompt.rpartition("/")[0] or "prompts"},
        }


def prompt_texts(package: Path, voice: Voice) -> dict[str, str]:
    """Return {prompt: transcript} of a text package."""
    ((_, packed),) = read_members(package, lambda name: name.endswith(f"core-sounds-{voice.language}.txt.gz"))
    found: dict[str, str] = {}
    for line in gzip.decompress(packed).decode("utf-8-sig").splitlines():
        prompt, separator, said = line.partition(":")
        text = spoken_text(said, voice) if separator and not line.startswith(";") else None
        if text is not None and not _SKIPPED.match(prompt.strip()):
            found.setdefault(prompt.strip(), text)
    return found


def spoken_text(transcript: str, voice: Voice) -> str | None:
    """Return what is said: single digits in words, accents and spelling mended; None where that is not known."""
    digits = voice.digits.split()
    text = _SIGN.sub(" ", transcript)
    text = re.sub(r"(?<![\w.,])\d(?![\w]|[.,]\d)", lambda match: digits[int(match[0])], text)
    if voice.language in ("en", "fr"):
        for wrong, right in SPELLINGS.items():
            text = text.replace(wrong, right)
    if voice.language == "es":
        text = re.sub(r"\w+", lambda match: _accented(match[0]), text)
    text = re.sub(r"\.\.\.|…", " ", text.strip().strip("“”\"'"))
    text = re.sub(r"\s+([.,!?])", r"\1", tidy(text)).strip(" ,:;")
    if _UNSURE.search(text) or not any(c.isalpha() for c in text):
        return None
    return text


def _accented(word: str) -> str:
    right = _BY_PLAIN.get(word.lower(), word)
    return right.capitalize() if word[0].isupper() and right is not word else right


def _plain(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


_BY_PLAIN = {_plain(word): word for word in _SPANISH.split()}
SOURCES: tuple[FullSource, ...] = tuple(
    FullSource(
        name=f"asterisk-{voice.language}",
        task="transcription",
        packages=(voice.sounds, voice.texts),
        rows=partial(prompt_rows, voice=voice),
    )
    for voice in VOICES
)
