"""Twelve pictures of three things, in folders named as what they show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pillow

from tests.cli.conftest import model_folder as model_folder

COLOURS = {"poppy": (220, 30, 30), "meadow": (30, 200, 40), "ocean": (20, 40, 220)}
# So small that a run takes a second, and the same one twice.
QUICK: dict[str, Any] = {"max_train_s": 0.0, "samples_per_step": 8, "replay": 0.0, "say": lambda text: None}


def write_photos(root: Path, num: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(num):
            noise = rng.integers(-20, 21, (16, 16, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            pillow.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos")
