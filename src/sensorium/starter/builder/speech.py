"""Spoken prompts of Asterisk with their transcripts, in English and French."""

from __future__ import annotations

import gzip
import io
import re
from hashlib import sha1
from pathlib import Path
from typing import Any

import av
import numpy as np

from sensorium.data.schema import medium
from sensorium.data.splits import split_of
from sensorium.starter.builder import pinned
from sensorium.starter.builder.packages import Package, fetch, read_members
from sensorium.starter.builder.waveforms import Waveform, encode_opus, finish, trim_silence

SAMPLE_RATE = 16_000
MAX_DURATION_S = 4.0
MAX_PROMPTS = {"en": 210, "fr": 160}

_PACKAGES: dict[str, tuple[Package, Package]] = {
    "en": (pinned.ASTERISK_EN, pinned.ASTERISK_EN_TEXT),
    "fr": (pinned.ASTERISK_FR, pinned.ASTERISK_FR_TEXT),
}
_VOICES = {
    "en": "Asterisk core sounds, spoken by Allison Smith",
    "fr": "Asterisk core sounds, spoken by June Wallack; translated by Clod Patry, Kristopher Lalletti "
    "and June Wallack",
}
# Names of protocols and folders that the voice spells in its own way, and prompts that are not speech.
_SKIPPED = re.compile(r"^(spy-|silence/|letters/ascii|letters/.$|vm-Cust|beep|phonetic/|digits/[ap]-m$)")
_NOISES = re.compile(r"[\[\]()@<>{}/]|DAHDI|IAX|Inter-Asterisk|H\.323")
_WORD = re.compile(r"[^\W\d_]{2,}")
SPELLINGS = {
    "présentemnet": "présentement",
    "represenatives": "representatives",
    "Un-indentified or witheld": "Unidentified or withheld",
    "seixième": "seizième",
    "Telephoner": "Téléphoner",
    "millardième": "milliardième",
    "verouillée": "verrouillée",
    "dévérouillée": "déverrouillée",
    "déverouillée": "déverrouillée",
    "vérouillée": "verrouillée",
    "vérouiller": "verrouiller",
    "avez étez": "avez été",
    "premieres": "premières",
    "reessayer": "réessayer",
    "essayer a nouveau": "essayer à nouveau",
    "simultane a ete": "simultanés a été",
    "Nous somme desolé": "Nous sommes désolés",
    "numero": "numéro",
    "l'ecouter": "l'écouter",
    "ont étés": "ont été",
    "etre rappler": "être rappelé",
    "j'établi ": "j'établis ",
    "status d'": "statut d'",
    "appellant": "appelant",
    "avez entrer": "avez entré",
    "Veuillez entrez": "Veuillez entrer",
    "Veuillez composez": "Veuillez composer",
    "Veuillez recomposez": "Veuillez recomposer",
    "Veuillez essayez": "Veuillez essayer",
    "l'arrivé du": "l'arrivée du",
    "s'il-vous-plaît": "s'il vous plaît",
    "mots de passes": "mots de passe",
    "Allo": "Allô",
    " i ": " I ",
}
# Speech runs at 5 to 25 letters a second; outside of it the transcript is not what is said.
_LETTERS_PER_S = (4.0, 26.0)


def clean_transcript(text: str) -> str | None:
    """Return what is said, without marks of continuation; None where it is not speech or not spelled out.

    Numbers in digits are left out: "162" may be said in several ways.
    """
    for wrong, right in SPELLINGS.items():
        text = text.replace(wrong, right)
    text = text.strip().strip("“”\"'").replace("...", " ").replace("…", " ")
    text = " ".join(text.split()).strip(" ,:;")
    text = re.sub(r"\s+([.,!])", r"\1", text)
    if _NOISES.search(text) or re.search(r"\d", text) or not _WORD.search(text):
        return None
    return text


def transcripts(package: Path) -> dict[str, str]:
    """Return {prompt: transcript} of a text package, without repeated transcripts."""
    lists = list(
        read_members(package, lambda name: re.search(r"core-sounds-\w+\.txt\.gz$", name) is not None)
    )
    found: dict[str, str] = {}
    for line in gzip.decompress(lists[0][1]).decode("utf-8").splitlines():
        prompt, separator, said = line.partition(":")
        text = clean_transcript(said) if separator and not line.startswith(";") else None
        if text is not None and not _SKIPPED.match(prompt):
            found.setdefault(prompt.strip(), text)
    first: dict[str, str] = {}
    for prompt, text in found.items():
        first.setdefault(text.lower().rstrip(".!"), prompt)
    return {prompt: found[prompt] for prompt in first.values()}


def speech_rows(language: str, cache: Path) -> list[dict[str, Any]]:
    """Return the rows of some prompts of one language, at most four seconds long."""
    sounds, texts = (fetch(package, cache) for package in _PACKAGES[language])
    said = transcripts(texts)
    rows: list[dict[str, Any]] = []
    for name, data in read_members(sounds, lambda name: name.endswith(".g722")):
        prompt = name.split("/", 5)[-1].removesuffix(".g722")
        if prompt not in said:
            continue
        waveform = trim_silence(decode_g722(data), SAMPLE_RATE)
        duration_s = len(waveform) / SAMPLE_RATE
        letters = sum(character.isalpha() for character in said[prompt])
        if duration_s > MAX_DURATION_S or not _LETTERS_PER_S[0] <= letters / duration_s <= _LETTERS_PER_S[1]:
            continue
        rows.append(
            {
                "id": f"asterisk-{language}/{prompt}",
                "split": split_of(said[prompt]),
                "language": language,
                "source": f"asterisk-{language}",
                "license": "CC-BY-SA-3.0",
                "attribution": f"{_VOICES[language]} (https://www.asterisk.org); trimmed and levelled",
                "text": said[prompt],
                "audio": medium(
                    encode_opus(finish(waveform, SAMPLE_RATE), SAMPLE_RATE), f"{Path(prompt).name}.opus.ogg"
                ),
            }
        )
    # A draw that does not depend on the order of the archive: words, phrases and sentences as they come.
    kept = sorted(rows, key=lambda row: sha1(str(row["id"]).encode()).hexdigest())[: MAX_PROMPTS[language]]
    return sorted(kept, key=lambda row: str(row["id"]))


def decode_g722(data: bytes) -> Waveform:
    """Return a raw G.722 recording as a waveform at 16 kHz."""
    with av.open(io.BytesIO(data), mode="r", format="g722") as container:
        blocks = [frame.to_ndarray().reshape(-1).astype(np.float32) for frame in container.decode(audio=0)]
    return np.concatenate(blocks) / np.float32(32768)
