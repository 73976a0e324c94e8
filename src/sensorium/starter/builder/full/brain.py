"""Slices of one MRI volume with the regions of an atlas: where a region lies, never what is wrong with it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from sensorium.data.schema import medium, message
from sensorium.data.splits import SPLITS, split_of
from sensorium.starter.builder.full.source import FULL_PICTURE_SIZE, FullSource
from sensorium.starter.builder.images import encode_webp
from sensorium.starter.builder.packages import BuildError, Package, fetch, read_members

MRICRON = Package(
    client="apt",
    name="mricron-data",
    version="1.2.20211006+dfsg-4",
    file_name="mricron-data_1.2.20211006+dfsg-4_all.deb",
    sha256="d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f",
)
_FOLDER = "usr/share/mricron/templates/"
_VOLUME, _ATLAS, _LABELS = (_FOLDER + name for name in ("ch2.nii.gz", "aal.nii.gz", "aal.nii.txt"))
_ATTRIBUTION = (
    "MRI volume Colin 27 (ch2), C. Holmes et al. 1998, Montreal Neurological Institute; atlas AAL, N. Tzourio-Mazoyer "
    "et al. 2002; as packaged with MRIcron, Chris Rorden; sliced, shrunk, outlined. One brain: for the location of "
    "regions only, never for diagnosis"
)
# In voxels of one millimetre.
_MIN_AREA = 60
_MIN_SHARE_OF_LARGEST = 0.3
_MAX_SLICES = 9
_DRAWN = 2 * FULL_PICTURE_SIZE
_OUTLINE = (255, 210, 0)
_SIDE = {"L": "left", "R": "right"}
# Axis of the volume that a plane cuts, and which ways its picture is turned: seen from the feet, from the front.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
_VIEW = "radiological: the left side of the body is on the right side of the picture"
# Slices of held-out regions are theirs alone, so that no picture is in two splits.
_SLICES_OF_TEST, _SLICES_OF_VALIDATION = 4, 9
_ASK_NAME = (
    "Which region is marked?",
    "What is the outlined region called?",
    "Name the marked region of the brain.",
    "Which part of the brain is outlined in this {plane} slice?",
    "The outline shows one region. Which one?",
    "What does the yellow line surround?",
)
_ASK_PLACE = (
    "Where is the {name}?",
    "Where in this {plane} slice is the {name}?",
    "Find the {name} in this slice.",
    "In which part of the picture is the {name}?",
    "Locate the {name}.",
    "Tell me where the {name} lies in this {plane} slice.",
)
_ASK_OUTLINE = (
    "Outline the {name}.",
    "Mark the {name} in this slice.",
    "Draw a line around the {name}.",
    "Show where the {name} is.",
    "Surround the {name} with a yellow line.",
    "Mark the outline of the {name} in this {plane} slice.",
)
_NAMES = {
    "Precentral": "precentral gyrus",
    "Frontal_Sup": "superior frontal gyrus",
    "Frontal_Sup_Orb": "orbital part of the superior frontal gyrus",
    "Frontal_Mid": "middle frontal gyrus",
    "Frontal_Mid_Orb": "orbital part of the middle frontal gyrus",
    "Frontal_Inf_Oper": "opercular part of the inferior frontal gyrus",
    "Frontal_Inf_Tri": "triangular part of the inferior frontal gyrus",
    "Frontal_Inf_Orb": "orbital part of the inferior frontal gyrus",
    "Rolandic_Oper": "Rolandic operculum",
    "Supp_Motor_Area": "supplementary motor area",
    "Olfactory": "olfactory cortex",
    "Frontal_Sup_Medial": "medial part of the superior frontal gyrus",
    "Frontal_Med_Orb": "medial orbital part of the superior frontal gyrus",
    "Rectus": "gyrus rectus",
    "Insula": "insula",
    "Cingulum_Ant": "anterior cingulate cortex",
    "Cingulum_Mid": "middle cingulate cortex",
    "Cingulum_Post": "posterior cingulate cortex",
    "Hippocampus": "hippocampus",
    "ParaHippocampal": "parahippocampal gyrus",
    "Amygdala": "amygdala",
    "Calcarine": "calcarine cortex",
    "Cuneus": "cuneus",
    "Lingual": "lingual gyrus",
    "Occipital_Sup": "superior occipital gyrus",
    "Occipital_Mid": "middle occipital gyrus",
    "Occipital_Inf": "inferior occipital gyrus",
    "Fusiform": "fusiform gyrus",
    "Postcentral": "postcentral gyrus",
    "Parietal_Sup": "superior parietal gyrus",
    "Parietal_Inf": "inferior parietal gyrus",
    "SupraMarginal": "supramarginal gyrus",
    "Angular": "angular gyrus",
    "Precuneus": "precuneus",
    "Paracentral_Lobule": "paracentral lobule",
    "Caudate": "caudate nucleus",
    "Putamen": "putamen",
    "Pallidum": "globus pallidus",
    "Thalamus": "thalamus",
    "Heschl": "Heschl's gyrus",
    "Temporal_Sup": "superior temporal gyrus",
    "Temporal_Pole_Sup": "superior part of the temporal pole",
    "Temporal_Mid": "middle temporal gyrus",
    "Temporal_Pole_Mid": "middle part of the temporal pole",
    "Temporal_Inf": "inferior temporal gyrus",
    "Cerebelum_Crus1": "crus I of the cerebellum",
    "Cerebelum_Crus2": "crus II of the cerebellum",
    "Vermis": "vermis of the cerebellum",
}
_CEREBELLUM = re.compile(r"(Cerebelum|Vermis)_(\d+)(?:_(\d+))?(b?)$")
_ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


@dataclass(frozen=True, kw_only=True)
class Region:
    """A region of the atlas: its number, its name without side, and its side ("" where it has none)."""

    label: int
    name: str
    side: str


def parse_region(line: str) -> Region:
    """Return a region from a line of the atlas's list, "37 Hippocampus_L 4101"."""
    label, code, _ = line.split()
    stem, _, side = code.rpartition("_")
    if side not in _SIDE:
        stem, side = code, ""
    lobule = _CEREBELLUM.fullmatch(stem)
    if lobule:
        first, last = (_ROMAN[int(number)] for number in (lobule[2], lobule[3] or lobule[2]))
        numbers = f"lobule {first}{lobule[4]}" if first == last else f"lobules {first} and {last}"
        part = "vermis" if lobule[1] == "Vermis" else "cerebellum"
        return Region(label=int(label), name=f"{numbers} of the {part}", side=_SIDE.get(side, ""))
    return Region(label=int(label), name=_NAMES[stem], side=_SIDE.get(side, ""))


def brain_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield questions about slices: what is marked, where a region is, and an outline to be drawn."""
    volume, atlas, regions = _load(folder)
    count = 0
    for region in regions:
        mask = atlas == region.label
        for plane in PLANES:
            for number in chosen_slices(mask, plane, split_of(region.name)):
                picture = slice_picture(volume, plane, number)
                marked = outlined(picture, slice_of(mask, plane, number))
                yield _row(region, plane, number, "name", picture, marked, None)
                kind = "place" if count % 2 else "outline"
                yield _row(region, plane, number, kind, picture, marked, slice_of(mask, plane, number))
                count += 1


def slice_of(array: np.ndarray, plane: str, number: int) -> np.ndarray:
    """Return a slice as a picture has it: up is up (or the front), left is the right side of the body."""
    cut = np.moveaxis(array, PLANES[plane], 0)[number]
    # The volume goes from left to right, from back to front, from below to above.
    turned = cut.T[::-1]
    return turned if plane == "sagittal" else turned[:, ::-1]


def chosen_slices(mask: np.ndarray, plane: str, split: str) -> list[int]:
    """Return the slices in which the region is large enough to be recognised, evenly spread, nine at most."""
    axis = PLANES[plane]
    areas = mask.sum(axis=tuple(i for i in range(3) if i != axis))
    least = max(_MIN_AREA, _MIN_SHARE_OF_LARGEST * areas.max())
    own = {_SLICES_OF_TEST: SPLITS[2], _SLICES_OF_VALIDATION: SPLITS[1]}
    fit = [int(n) for n in np.flatnonzero(areas >= least) if own.get(int(n) % 10, SPLITS[0]) == split]
    if len(fit) <= _MAX_SLICES:
        return fit
    return [fit[round(i * (len(fit) - 1) / (_MAX_SLICES - 1))] for i in range(_MAX_SLICES)]


def slice_picture(volume: np.ndarray, plane: str, number: int) -> Image.Image:
    """Return a slice of the volume as grey RGB on a black square of 256 pixels."""
    return _square(slice_of(volume, plane, number)).convert("RGB")


def outlined(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """Return the picture with a yellow line around the region."""
    region = _square(mask.astype(np.uint8) * 255).point(lambda value: 255 if value > 127 else 0)
    edge = np.asarray(region.filter(ImageFilter.MaxFilter(7))) > np.asarray(region)
    return Image.composite(Image.new("RGB", picture.size, _OUTLINE), picture, Image.fromarray(edge))


def place_words(mask: np.ndarray) -> str:
    """Return where the region lies in the picture: a part of it, and its extent in percent."""
    pixels = np.asarray(_square(mask.astype(np.uint8) * 255)) > 127
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    left, right = (round(100 * at / _DRAWN) for at in (columns[0], columns[-1] + 1))
    top, bottom = (round(100 * at / _DRAWN) for at in (rows[0], rows[-1] + 1))
    down = ("upper", "middle", "lower")[min(2, int((top + bottom) / 2 // 33.4))]
    across = ("left", "centre", "right")[min(2, int((left + right) / 2 // 33.4))]
    part = "centre" if (down, across) == ("middle", "centre") else f"{down} {across}"
    return (
        f"In the {part} of the picture: {left} to {right} % of the width, {top} to {bottom} % of the height."
    )


def _square(cut: np.ndarray) -> Image.Image:
    height, width = cut.shape
    side = max(height, width)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = cut
    return Image.fromarray(square).resize((_DRAWN, _DRAWN), Image.Resampling.BICUBIC)


def _row(
    region: Region,
    plane: str,
    number: int,
    kind: str,
    picture: Image.Image,
    marked: Image.Image,
    mask: np.ndarray | None,
) -> dict[str, Any]:
    # A sagittal slice does not show on which side it lies.
    side = "" if plane == "sagittal" else region.side
    name = f"{side} {region.name}".strip()
    stem = f"{plane}-{number:03d}-{region.label:03d}-{kind}"
    ask = {"name": _ASK_NAME, "place": _ASK_PLACE, "outline": _ASK_OUTLINE}[kind]
    question = ask[int(sha1(stem.encode()).hexdigest()[:8], 16) % len(ask)].format(name=name, plane=plane)
    seen = [marked] if kind == "name" else [picture]
    if kind == "outline":
        answer: str | dict[str, str] = {"type": "image"}
        seen.append(marked)
    else:
        answer = name if mask is None else place_words(mask)
    return {
        "id": f"brain/{stem}",
        "split": split_of(region.name),
        "concept": region.name.lower(),
        "language": "en",
        "source": "brain",
        "license": "BSD-3-Clause",
        "attribution": _ATTRIBUTION,
        "messages": [message("user", {"type": "image"}, question), message("assistant", answer)],
        "images": [
            medium(encode_webp(_half(image), method=4), f"{stem}-{i}.webp") for i, image in enumerate(seen)
        ],
        "metadata": {
            "plane": plane,
            "slice": str(number),
            "region": name,
            "question": kind,
            "view": _VIEW,
            "purpose": "location of regions in one brain; not for diagnosis",
        },
    }


def _half(image: Image.Image) -> Image.Image:
    return image.reduce(_DRAWN // FULL_PICTURE_SIZE)


def _load(folder: Path) -> tuple[np.ndarray, np.ndarray, list[Region]]:
    wanted = (_VOLUME, _ATLAS, _LABELS)
    files = dict(read_members(fetch(MRICRON, folder), lambda name: name in wanted))
    volume, atlas = (read_nifti(files[name]) for name in (_VOLUME, _ATLAS))
    if volume.shape != atlas.shape:
        raise BuildError(
            f"brain: the volume measures {volume.shape} and the atlas {atlas.shape}; expected the same"
        )
    regions = [parse_region(line) for line in files[_LABELS].decode("utf-8").splitlines() if line.strip()]
    return volume, atlas, regions


def read_nifti(data: bytes) -> np.ndarray:
    """Return the voxels of a compressed NIfTI file whose axes go to the right, to the front and up.

    Raises:
        BuildError: nibabel is missing, or the axes go elsewhere.
    """
    try:
        import nibabel
    except ImportError as error:
        raise BuildError(
            "the reader of NIfTI is missing; install it: pip install 'sensorium[build]'"
        ) from error
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
    if nibabel.aff2axcodes(image.affine) != ("R", "A", "S"):
        raise BuildError(
            f"a volume has the axes {nibabel.aff2axcodes(image.affine)}; expected ('R', 'A', 'S')"
        )
    return np.asarray(image.dataobj)


SOURCES = (FullSource(name="brain", task="region", packages=(MRICRON,), rows=brain_rows),)
