import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image as pillow

from sensorium.media.audio import decode_audio
from sensorium.media.errors import MediaError
from sensorium.media.image import decode_image
from sensorium.media.parts import Audio, Image

from .samples import DOG_PNG, REFERENCE, TABLA_FLAC, tabla

DOG = decode_image(DOG_PNG)


@pytest.mark.parametrize(
    "source",
    [
        str(REFERENCE / "dog.png"),
        REFERENCE / "dog.png",
        DOG_PNG,
        bytearray(DOG_PNG),
        pillow.open(io.BytesIO(DOG_PNG)),
        np.array(pillow.open(io.BytesIO(DOG_PNG)).convert("RGBA")),
        DOG,
    ],
    ids=lambda source: type(source).__name__,
)
def test_image_from_anything(source):
    np.testing.assert_array_equal(Image(source).pixels(), DOG)


def test_image_from_grey_array():
    assert Image(np.full((2, 3), 9, np.uint8)).pixels().tolist() == [[[9] * 3] * 3] * 2


def test_pixels_are_a_copy():
    image = Image(DOG.copy())
    image.pixels()[:] = 0
    np.testing.assert_array_equal(image.pixels(), DOG)


@pytest.mark.parametrize(
    "source",
    [
        str(REFERENCE / "tabla.flac"),
        REFERENCE / "tabla.flac",
        TABLA_FLAC,
        memoryview(TABLA_FLAC),
        (tabla(), 24_000),
        (np.stack([tabla(), tabla()], axis=1), 24_000),
        (tabla().astype(np.float64), 24_000),
    ],
    ids=lambda source: type(source).__name__,
)
def test_audio_from_anything(source):
    sound = Audio(source).waveform()
    assert sound.dtype == np.float32
    quiet = 0.9 if isinstance(source, tuple) else 1.0
    np.testing.assert_allclose(sound, np.clip(tabla() / 0.9, -1, 1) * quiet, atol=2e-2 if quiet < 1 else 1e-4)


def test_reading_is_lazy_and_a_missing_file_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, sound = Image("dog.png"), Audio(Path("bark.wav"))
    with pytest.raises(
        FileNotFoundError,
        match=re.escape(f"dog.png: no such picture file; check the path (relative to {tmp_path})"),
    ):
        image.pixels()
    with pytest.raises(FileNotFoundError, match=r"bark\.wav: no such sound file"):
        sound.waveform()
    Path("dog.png").write_bytes(DOG_PNG)
    assert image.pixels().shape == (64, 64, 3)


def test_errors_name_the_file(tmp_path):
    (tmp_path / "notes.jpg").write_text("buy milk")
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(MediaError, match=r"notes\.jpg: is a text file; expected a picture"):
        Image(tmp_path / "notes.jpg").pixels()
    with pytest.raises(MediaError, match=r"empty\.wav: is empty"):
        Audio(tmp_path / "empty.wav").waveform()
    for part in (Image, Audio):
        with pytest.raises(MediaError, match="is a folder or device"):
            getattr(part(tmp_path), "pixels" if part is Image else "waveform")()
        with pytest.raises(TypeError, match="expected a path"):
            part(3)
    with pytest.raises(ValueError, match=r"is an address; .*download it"):
        Image("https://example.org/a.png").pixels()


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(MediaError, match="holds 1,099,511,627,776 bytes; at most 67,108,864 are accepted"):
        Image(path).pixels()


def test_wrong_arrays():
    for array in (
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(MediaError, match="expected non-empty uint8"):
            Image(array)
    with pytest.raises(TypeError, match="samples array, sample_rate"):
        Audio(tabla())
    with pytest.raises(TypeError, match="samples array, sample_rate"):
        Audio((24_000, tabla()))


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.webp"])
def test_image_save_round_trip(tmp_path, name):
    path = Image(DOG).save(tmp_path / name)
    assert path == tmp_path / name
    difference = np.abs(Image(path).pixels().astype(int) - DOG).mean()
    assert difference == 0 if name.lower().endswith("png") else difference < 5
    assert not pillow.open(path).getexif()


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_audio_save_round_trip(tmp_path, name):
    path = Audio((tabla(), 24_000)).save(str(tmp_path / name))
    np.testing.assert_allclose(Audio(path).waveform(), tabla(), atol=1e-4)
    with soundfile.SoundFile(path) as file:
        assert (file.comment, file.samplerate, file.channels) == ("", 24_000, 1)


def test_generated_media_say_so(tmp_path):
    mark = {"Software": "sensorium", "generated": "true", "prompt": "a « dog »", "model": "nano"}
    generated = {"prompt": "a « dog »", "model": "nano"}
    image = Image(DOG, generated=generated)
    assert pillow.open(image.save(tmp_path / "a.png")).text == mark
    assert pillow.open(io.BytesIO(image._repr_png_())).text == mark
    for name in ("a.jpg", "a.webp"):
        exif = pillow.open(image.save(tmp_path / name)).getexif()
        assert exif[0x0131] == "sensorium"
        assert json.loads(exif[0x010E]) == mark
    for name in ("a.wav", "a.flac"):
        with soundfile.SoundFile(Audio((tabla(), 24_000), generated=generated).save(tmp_path / name)) as file:
            assert json.loads(file.comment) == mark


def test_bad_places_to_save(tmp_path):
    with pytest.raises(ValueError, match=r"cannot save a picture as 'a\.tiff'; use \.png, \.jpg or \.webp"):
        Image(DOG).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"cannot save a sound as 'a\.mp3'; use \.wav or \.flac"):
        Audio((tabla(), 24_000)).save(tmp_path / "a.mp3")
    with pytest.raises(FileNotFoundError, match=r"no such folder to save a\.png in"):
        Image(DOG).save(tmp_path / "nowhere" / "a.png")


def test_notebook_views():
    assert Image(DOG_PNG)._repr_png_().startswith(b"\x89PNG")
    encoded = re.fullmatch(
        r'<audio controls src="data:audio/wav;base64,([A-Za-z0-9+/=]+)"></audio>',
        Audio((tabla(), 24_000))._repr_html_(),
    )
    np.testing.assert_allclose(decode_audio(base64.b64decode(encoded[1])), tabla(), atol=1e-4)
    assert repr(Image("a.png")) == "Image('a.png')"
    assert repr(Image(DOG)) == "Image(64 x 64 pixels)"
    assert repr(Audio((tabla(), 24_000))) == f"Audio({tabla().size:,} samples at 24,000 Hz)"
