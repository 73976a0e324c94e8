"""The speech of SVOX Pico (py-nanotts), in a process of its own.

The library reads memory that it never wrote, so what it says depends on what its process did before. A bare process
that says the same texts in the same order, its memory filled by the allocator, gives the same samples every time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
from types import TracebackType

import numpy as np

from sensorium.starter.builder.packages import BuildError
from sensorium.starter.builder.waveforms import Waveform

SAMPLE_RATE = 16_000
# Lines of JSON in, a length and samples out.
_WORKER = """
import json, struct, sys
import py_nanotts
for line in sys.stdin:
    asked = json.loads(line)
    pcm = py_nanotts.NanoTTS().speak(**asked)
    sys.stdout.buffer.write(struct.pack("<I", len(pcm)) + pcm)
    sys.stdout.buffer.flush()
"""
_ENVIRONMENT = {"MALLOC_PERTURB_": "255", "PYTHONHASHSEED": "0"}


class Pico:
    """The process; use it in a `with` statement.

    Raises:
        BuildError: py-nanotts is missing.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("py_nanotts") is None:
            raise BuildError("py-nanotts is missing; install it: pip install py-nanotts")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
        )

    def say(self, text: str, voice: str, rate: float, pitch: float) -> Waveform:
        """Return what a voice says at 16 kHz.

        Raises:
            BuildError: the process has ended.
        """
        asked = {"text": text, "voice": voice, "speed": rate, "pitch": pitch}
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(asked).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise BuildError(f"py-nanotts ended before it said {text!r}; see what it wrote above") from error
        head = stdout.read(4)
        if len(head) < 4:
            raise BuildError(f"py-nanotts ended while it said {text!r}; see what it wrote above")
        pcm = stdout.read(struct.unpack("<I", head)[0])
        return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32768)

    def __enter__(self) -> Pico:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
