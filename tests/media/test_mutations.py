"""Real files with flipped bits, cut tails, overwritten stretches: a clear error or a valid result."""

import re

import numpy as np
import pytest

from sensorium.media.audio import AudioLimits, decode_audio
from sensorium.media.errors import MediaError
from sensorium.media.image import ImageLimits, decode_image

from .samples import all_pictures, all_sounds

MUTATIONS_PER_FILE = 40
IMAGE_LIMITS = ImageLimits(max_pixels=1_000_000)
AUDIO_LIMITS = AudioLimits(max_duration_s=30)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage some bytes; half of the time near the front, where the headers are."""
    mutated = bytearray(data)
    reach = len(mutated) if rng.random() < 0.5 else min(len(mutated), 200)
    at = int(rng.integers(reach))
    kind = rng.integers(5)
    if kind == 0:
        for where in rng.integers(reach, size=rng.integers(1, 9)):
            mutated[where] ^= 1 << rng.integers(8)
    elif kind == 1:
        del mutated[at:]
    elif kind == 2:
        mutated[at : at + 4] = rng.choice(
            [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"]
        )
    elif kind == 3:
        del mutated[at : at + int(rng.integers(1, 64))]
    else:
        mutated[at:at] = mutated[at : at + int(rng.integers(1, 256))]
    return bytes(mutated)


@pytest.mark.parametrize("name", all_pictures())
def test_mutated_pictures(name):
    rng = np.random.default_rng(20_240_601)
    messages: list[str] = []
    for _ in range(MUTATIONS_PER_FILE):
        try:
            pixels = decode_image(mutate(all_pictures()[name], rng), name=name, limits=IMAGE_LIMITS)
        except MediaError as error:
            messages.append(str(error))
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
    assert messages
    assert all(re.fullmatch(rf"{name}: .+; .+; .+", message) for message in messages)


@pytest.mark.parametrize("name", all_sounds())
def test_mutated_sounds(name):
    rng = np.random.default_rng(20_240_601)
    messages: list[str] = []
    for _ in range(MUTATIONS_PER_FILE):
        try:
            sound = decode_audio(mutate(all_sounds()[name], rng), name=name, limits=AUDIO_LIMITS)
        except MediaError as error:
            messages.append(str(error))
        else:
            assert sound.dtype == np.float32
            assert sound.ndim == 1
            assert 0 < sound.size <= 30 * 24_000 + 1
            assert np.abs(sound).max() <= 1
    assert messages or name.endswith("g722")  # any bytes are G722
    assert all(re.fullmatch(rf"{name}: .+; .+; .+", message) for message in messages)
