"""DICOM and NIfTI as windowed PNG slices. What could tell who the patient is stays behind.

Nothing of a file is kept but its pixels and the six facts in `metadata`: names and numbers of patients, dates,
hospitals, file and folder names, comments, overlays and private tags are never written, not even in reasons for
rejection. A hash of the patient decides the split, so that one patient is never on both sides.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from sensorium.data.importers.base import Draft, Options, failed, split_in_path, suffix_of, walk
from sensorium.data.schema import medium
from sensorium.media.image import ImageLimits, encode_png

MEDICAL_SUFFIXES = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")
MAX_VOXELS = 300_000_000  # of one volume, which is in memory while its slices are written

_PLANES = ("sagittal", "coronal", "axial")  # by the axis that they cut
# Values are kept only if they are words of the standard (PS3.3 C.7.3.1.1.1, PS3.16 annex L): fields for codes
# hold anything in practice.
_MODALITIES = {
    *("CR", "CT", "DX", "IO", "MG", "MR", "NM", "OP", "OPT", "PT", "PX", "RF", "SC", "SM", "US", "XA", "XC"),
}
_SCREENS = {"US", "IVUS", "SC", "XC", "OT", "ES", "GM"}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_BODY_PARTS = {
    *("ABDOMEN", "ANKLE", "ARM", "BRAIN", "BREAST", "CHEST", "CSPINE", "ELBOW", "EXTREMITY", "EYE", "FEMUR"),
    *("FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEART", "HIP", "JAW", "KIDNEY", "KNEE", "LEG", "LIVER"),
    *("LSPINE", "LUNG", "NECK", "PANCREAS", "PELVIS", "PROSTATE", "SHOULDER", "SKULL", "SPINE", "STOMACH"),
    *("TSPINE", "THIGH", "THYROID", "TOE", "UTERUS", "WHOLEBODY", "WRIST"),
}
_TAGS = [
    *("BodyPartExamined", "BurnedInAnnotation", "Columns", "ImageOrientationPatient", "ImagerPixelSpacing"),
    *("Modality", "NumberOfFrames", "PatientID", "PatientName", "PhotometricInterpretation", "PixelSpacing"),
    *(
        "RecognizableVisualFeatures",
        "RescaleIntercept",
        "RescaleSlope",
        "Rows",
        "SamplesPerPixel",
        "SOPClassUID",
    ),
    *("SliceThickness", "StudyInstanceUID", "WindowCenter", "WindowWidth"),
]


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's mark after its preamble (PS3.10, 7.1)."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_medical(path: Path, options: Options) -> Iterator[Draft]:
    """Slices of a file, or of every medical file of a folder. Ids are ordinals: file names may be names."""
    if path.is_file():
        places = iter([(path.parent, "", [path.name])])
        num_folders = 1
    else:
        num_folders = max(1, sum(1 for _ in walk(path)))
        places = ((path / folder, folder, names) for folder, names in walk(path))
    number = 0
    for place, (root, folder, names) in enumerate(places):
        for index, name in enumerate(names):
            file = root / name
            is_nifti = suffix_of(name) in (".nii", ".nii.gz")
            if not is_nifti and suffix_of(name) not in MEDICAL_SUFFIXES and not is_dicom(file):
                continue
            sample_id, at = f"medical-{number:06d}", (place + index / len(names)) / num_folders
            number += 1
            found = _nifti_drafts if is_nifti else _dicom_drafts
            fallback = _subject(f"{folder}/{name}" if is_nifti else folder or name)
            try:
                for draft in found(file, sample_id, fallback, options):
                    yield Draft(draft.id, draft.load, split_in_path(folder), draft.group, at)
            except _MissingPackage:
                raise
            except Exception as error:  # these readers raise anything, and their words may hold identifiers
                reason = f"file {number} in order of names cannot be read ({type(error).__name__}); check it"
                yield failed(sample_id, reason, split=split_in_path(folder), group=fallback, at=at)


def _subject(text: str) -> str:
    """Whom a path is about: the subject folder of the Brain Imaging Data Structure, else the path. Hashed."""
    named = re.search(r"(?:^|/)(sub-[^/_]+)", text)
    return sha256((named[1] if named else text).encode("utf-8", "surrogatepass")).hexdigest()


def _dicom_drafts(file: Path, sample_id: str, fallback: str, options: Options) -> Iterator[Draft]:
    pydicom = _package("pydicom")
    with warnings.catch_warnings():  # which quote values of the file
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
        patient = next(
            (str(header.get(t)) for t in ("PatientID", "PatientName", "StudyInstanceUID") if header.get(t)),
            "",
        )
        group = sha256(patient.encode()).hexdigest() if patient else fallback
        num_frames = int(header.get("NumberOfFrames") or 1)
    for frame in range(num_frames):
        slice_id = f"{sample_id}-{frame:04d}" if num_frames > 1 else sample_id
        yield Draft(slice_id, _guarded(_load_dicom, file, header, frame, slice_id, options), group=group)


def _guarded(load: Callable[..., dict[str, Any] | None], *given: Any) -> Callable[[], dict[str, Any] | None]:
    """Any other error than our own is told by its type alone: its words may hold identifiers."""

    def run() -> dict[str, Any] | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return load(*given)
        except _Unusable:
            raise
        except Exception as error:
            raise ValueError(
                f"the pixels cannot be read ({type(error).__name__}); export it uncompressed"
            ) from None

    return run


class _MissingPackage(ValueError):
    """An extra is not installed: a mistake of the user, and not a bad sample."""


class _Unusable(ValueError):
    """A reason of ours, which holds no identifier."""


def _load_dicom(
    file: Path, header: Any, frame: int, slice_id: str, options: Options
) -> dict[str, Any] | None:
    rows, columns = header.get("Rows"), header.get("Columns")
    if not rows or not columns:
        return None  # a report, a plan: no picture
    if rows * columns > ImageLimits().max_pixels:
        raise _Unusable(
            f"measures {columns:,} x {rows:,} pixels; at most {ImageLimits().max_pixels:,} are accepted"
        )
    if (reason := _may_show_who(header)) and not options.allow_burned_in:
        raise _Unusable(f"{reason}; look at it, then allow it with --allow-burned-in")
    try:
        pixels = _package("pydicom.pixels").pixel_array(str(file), index=frame)
    except (RuntimeError, NotImplementedError):
        way = header.file_meta.TransferSyntaxUID.name
        raise _Unusable(
            f"no decoder for {way if way[:1].isalpha() else 'its compression'} is installed; run pip install "
            "'pylibjpeg[all]', or export it uncompressed"
        ) from None
    window = ""
    if pixels.ndim == 3:
        grey = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    else:
        if header.get("PhotometricInterpretation") == "PALETTE COLOR":
            raise _Unusable("is coloured by a palette; export it in grey or RGB")
        values = pixels.astype(np.float32) * float(header.get("RescaleSlope") or 1)
        values += float(header.get("RescaleIntercept") or 0)
        center, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
        if center is not None and width is not None and width > 1:
            # The linear function of PS3.3, C.11.2.1.2.1.
            low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
            window = f"{center:g}/{width:g}"
        else:
            low, high = (float(v) for v in np.percentile(values, (1, 99)))
            window = "1-99 %"
        grey = windowed(values, low, high)
        if header.get("PhotometricInterpretation") == "MONOCHROME1":
            grey = 255 - grey
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    facts = {
        "modality": _known(header.get("Modality"), _MODALITIES),
        "body_part": _known(header.get("BodyPartExamined"), _BODY_PARTS),
        "plane": _plane(header.get("ImageOrientationPatient")),
        "spacing_mm": " x ".join(f"{float(s):g}" for s in spacing) if spacing else "",
        "slice_thickness_mm": f"{float(header.SliceThickness):g}" if header.get("SliceThickness") else "",
        "window": window,
    }
    return _row(grey, slice_id, facts)


def _may_show_who(header: Any) -> str:
    """Why the pixels themselves may tell who the patient is, "" where nothing says so."""
    marks = {
        tag: str(header.get(tag, "")).upper() for tag in ("BurnedInAnnotation", "RecognizableVisualFeatures")
    }
    for tag, mark in marks.items():
        if mark == "YES":
            return f"{tag} says that the picture may identify the patient"
    # Screens are where names are written into pictures, and few devices set the mark.
    is_screen = (
        str(header.get("Modality", "")).upper() in _SCREENS
        or str(header.get("SOPClassUID", "")).startswith(_SECONDARY_CAPTURE)
        or int(header.get("SamplesPerPixel") or 1) > 1
    )
    if is_screen and marks["BurnedInAnnotation"] != "NO":
        kinds = "ultrasound, screen captures and coloured pictures"
        return f"{kinds} often show names, and nothing says that this one does not"
    return ""


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey levels, uint8: black at `low` and below, white at `high` and above."""
    scaled = (values - low) * (255 / max(high - low, 1e-6))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _row(grey: np.ndarray, slice_id: str, facts: dict[str, str]) -> dict[str, Any] | None:
    if grey.min() == grey.max():
        return None  # a slice beside the body
    pixels = np.ascontiguousarray(grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2))
    return {
        "image": medium(encode_png(pixels), f"{slice_id}.png"),
        "metadata": {key: value for key, value in facts.items() if value},
    }


def _known(value: Any, words: set[str]) -> str:
    word = str(value or "").strip().upper()
    return word if word in words else ""


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _plane(orientation: Any) -> str:
    if not orientation or len(orientation) != 6:
        return ""
    across, down = np.array(orientation[:3], float), np.array(orientation[3:], float)
    return _PLANES[int(np.abs(np.cross(across, down)).argmax())]


def _nifti_drafts(file: Path, sample_id: str, fallback: str, options: Options) -> Iterator[Draft]:
    volume = _Volume(file)
    for index in range(volume.num_slices):
        slice_id = f"{sample_id}-{index:04d}"
        yield Draft(slice_id, _guarded(volume.load, index, slice_id), group=fallback)


class _Volume:
    """A NIfTI volume, read when its first slice is, cut across its thickest axis, else in axial slices."""

    def __init__(self, file: Path) -> None:
        nibabel = _package("nibabel")
        self.image = nibabel.load(file)
        shape = tuple(n for n in self.image.shape[:3])
        self.problem = ""
        if len(shape) != 3 or any(n != 1 for n in self.image.shape[3:]):
            self.problem = f"has the shape {self.image.shape}; expected one volume of three axes"
        elif int(np.prod(shape, dtype=np.int64)) > MAX_VOXELS:
            self.problem = (
                f"has {np.prod(shape, dtype=np.int64):,} voxels; at most {MAX_VOXELS:,} are accepted"
            )
        if self.problem:
            self.num_slices = 1
            return
        # Stored axes in the order of the world's: to the right, to the front, upwards.
        self.orientation = nibabel.io_orientation(self.image.affine)
        order = [int(np.flatnonzero(self.orientation[:, 0] == axis)[0]) for axis in range(3)]
        self.spacing = [float(self.image.header.get_zooms()[axis]) for axis in order]
        thickest = int(np.argmax(self.spacing))
        self.axis = thickest if self.spacing[thickest] > 1.5 * min(self.spacing) else 2
        self.num_slices = shape[order[self.axis]]
        self._values: np.ndarray | None = None
        self._window = (0.0, 1.0)

    def load(self, index: int, slice_id: str) -> dict[str, Any] | None:
        if self.problem:
            raise _Unusable(self.problem)
        if self._values is None:
            nibabel = _package("nibabel")
            values = self.image.get_fdata(dtype=np.float32, caching="unchanged").reshape(self.image.shape[:3])
            self._values = np.nan_to_num(nibabel.apply_orientation(values, self.orientation))
            inside = self._values[self._values != 0]
            low, high = np.percentile(inside if inside.size else self._values, (1, 99))
            self._window = (float(low), float(high))
        # As radiologists look at it: the patient's right or front at the left, the front or the head on top.
        cut = np.take(self._values, index, axis=self.axis).T[::-1, ::-1]
        across = [f"{s:g}" for axis, s in enumerate(self.spacing) if axis != self.axis]
        facts = {
            "plane": _PLANES[self.axis],
            "spacing_mm": " x ".join(across),
            "slice_thickness_mm": f"{self.spacing[self.axis]:g}",
            "window": "1-99 %",
        }
        return _row(windowed(cut, *self._window), slice_id, facts)


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise _MissingPackage(
            f"medical files need {package}, which is not installed; run pip install 'sensorium[medical]'"
        ) from None
