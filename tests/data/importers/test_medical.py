"""DICOM and NIfTI, written by pydicom and nibabel: slices come, identifiers do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensorium.media.image import decode_image
from tests.data.importers.conftest import Import

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

SECRETS = ("MUSTERMANN", "ERIKA", "P4711", "19640812", "KLINIKUM", "SECRETCOMMENT", "PRIVATE99")


def write_dicom(path: Path, *, values: np.ndarray, patient: str = "P4711", **tags: Any) -> None:
    """A file full of identifiers."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4.5"
    ds.SOPClassUID = pydicom.uid.CTImageStorage
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "MUSTERMANN^ERIKA", patient, "19640812"
    ds.InstitutionName, ds.StudyDescription, ds.PatientComments = "KLINIKUM", "SECRETCOMMENT", "SECRETCOMMENT"
    ds.Modality, ds.BodyPartExamined = "CT", "CHEST"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [0.5, 0.7], 2
    ds.Rows, ds.Columns = values.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1000
    ds.WindowCenter, ds.WindowWidth = 0, 400
    ds.private_block(0x0099, "PRIVATE99", create=True).add_new(0x01, "LO", "MUSTERMANN")
    if values.ndim == 3:
        ds.NumberOfFrames = len(values)
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.PixelData = values.astype("<u2").tobytes()
    ds.save_as(path, enforce_file_format=True)


def ramp(side: int = 32) -> np.ndarray:
    return np.linspace(500, 1500, side * side).reshape(side, side).round()


def test_dicom(bring: Import, tmp_path: Path) -> None:
    root = tmp_path / "MUSTERMANN_ERIKA"
    root.mkdir()
    write_dicom(root / "MUSTERMANN_1.dcm", values=ramp())
    write_dicom(
        root / "IM0002", values=ramp(), PhotometricInterpretation="MONOCHROME1", BodyPartExamined="ERIKA"
    )
    write_dicom(root / "frames.dcm", values=np.stack([ramp(), np.full((32, 32), 7), ramp()]))
    write_dicom(root / "report.dcm", values=ramp(), Rows=None, Columns=None)
    (root / "notes.txt").write_text("MUSTERMANN")
    done = bring(root)
    assert (done.summary["format"], done.rejected, done.summary["num_left_out"]) == ("medical", {}, 2)
    rows = list(done.rows.values())
    assert [row["id"] for row in rows] == [
        "medical-000000",
        "medical-000001",
        "medical-000002-0000",
        "medical-000002-0002",
    ]
    assert rows[1]["metadata"] == {
        "modality": "CT",
        "body_part": "CHEST",
        "plane": "axial",
        "spacing_mm": "0.5 x 0.7",
        "slice_thickness_mm": "2",
        "window": "0/400",
    }
    assert "body_part" not in rows[0]["metadata"]  # "ERIKA" is no part of a body
    assert len({row["split"] for row in rows}) == 1  # one patient
    # Black at -200.5 and below, white at 198.5 and above, in Hounsfield units (PS3.3, C.11.2.1.2.1).
    expected = np.clip(np.rint((ramp() - 1000 + 200) / 399 * 255), 0, 255)
    grey = decode_image(rows[1]["image"]["bytes"])
    assert np.abs(grey[..., 0].astype(int) - expected).max() <= 1
    assert np.array_equal(decode_image(rows[0]["image"]["bytes"]), 255 - grey)


def test_no_identifier_is_written(bring: Import, tmp_path: Path) -> None:
    root = tmp_path / "KLINIKUM" / "ERIKA"
    root.mkdir(parents=True)
    write_dicom(root / "MUSTERMANN.dcm", values=ramp())
    write_dicom(root / "P4711.dcm", values=ramp(), BurnedInAnnotation="YES")
    (root / "MUSTERMANN2.dcm").write_bytes((root / "MUSTERMANN.dcm").read_bytes()[:900])
    (root / "ERIKA.dcm").write_bytes(b"MUSTERMANN")
    image = nibabel.Nifti1Image(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6), np.eye(4))
    image.header["descrip"] = b"MUSTERMANN"
    image.to_filename(root / "MUSTERMANN.nii.gz")
    (root / "ERIKA.nii").write_bytes(b"MUSTERMANN")
    done = bring(tmp_path / "KLINIKUM")
    assert len(done.rows) == 1 + 6
    assert len(done.rejected) == 4
    assert any("BurnedInAnnotation" in reason for reason in done.rejected.values())
    everything = repr(done.rows) + done.said + repr(done.rejected)
    for path in done.out.iterdir():
        everything += path.read_bytes().decode("latin-1")
    for secret in SECRETS:
        assert secret not in everything, secret
    allowed = bring(tmp_path / "KLINIKUM", "--allow-burned-in", out="allowed")
    assert len(allowed.rows) == 8


def test_patients_do_not_cross_splits(bring: Import, tmp_path: Path) -> None:
    for number in range(40):
        write_dicom(tmp_path / f"{number:03d}.dcm", values=ramp(8), patient=f"P{number % 20}")
    rows = sorted(bring(tmp_path).rows.values(), key=lambda row: row["id"])
    assert [row["split"] for row in rows[:20]] == [row["split"] for row in rows[20:]]
    assert len({row["split"] for row in rows}) > 1


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_is_turned_as_radiologists_look_at_it(bring: Import, tmp_path: Path, suffix: str) -> None:
    # One bright voxel at the patient's left, at the front, on top; stored in another order of axes.
    world = np.zeros((6, 7, 8), np.float32)
    world[:, :, :] = 1
    world[0, 6, 7] = 100
    stored = world.transpose(2, 0, 1)[::-1]
    affine = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], float)
    nibabel.Nifti1Image(np.ascontiguousarray(stored), affine).to_filename(tmp_path / f"x{suffix}")
    done = bring(tmp_path)
    rows = list(done.rows.values())
    # Slices of one grey tell nothing and are left out.
    assert (len(rows), done.summary["num_left_out"]) == (1, 7)
    assert rows[0]["id"] == "medical-000000-0007"
    assert (rows[0]["metadata"]["plane"], rows[0]["metadata"]["spacing_mm"]) == ("axial", "1 x 1")
    grey = decode_image(rows[0]["image"]["bytes"])[..., 0]
    assert grey.shape == (7, 6)
    # The front is on top. The patient's left is at the right of the picture.
    assert np.argwhere(grey == 255).tolist() == [[0, 5]]


def test_volumes_that_are_not_three_axes(bring: Import, tmp_path: Path) -> None:
    nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.int16), np.eye(4)).to_filename(tmp_path / "x.nii")
    thick = np.random.default_rng(0).integers(0, 99, (8, 3, 8)).astype(np.int16)
    nibabel.Nifti1Image(thick, np.diag([1, 5, 1, 1])).to_filename(tmp_path / "y.nii")
    done = bring(tmp_path)
    assert "expected one volume" in next(iter(done.rejected.values()))
    assert {row["metadata"]["plane"] for row in done.rows.values()} == {"coronal"}
    assert len(done.rows) == 3


def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sensorium.cli import main

    write_dicom(tmp_path / "a.dcm", values=ramp())
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    assert main(["data", "import", str(tmp_path), "--out", str(tmp_path.parent / "out-medical")]) == 2
    assert "pip install 'sensorium[medical]'" in capsys.readouterr().err
    assert not (tmp_path.parent / "out-medical").exists()


def test_screens_must_say_that_they_show_no_name(bring: Import, tmp_path: Path) -> None:
    write_dicom(tmp_path / "0.dcm", values=ramp(), Modality="US")
    write_dicom(tmp_path / "1.dcm", values=ramp(), Modality="US", BurnedInAnnotation="NO")
    write_dicom(tmp_path / "2.dcm", values=ramp(), SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    write_dicom(tmp_path / "3.dcm", values=ramp(), RecognizableVisualFeatures="YES")
    done = bring(tmp_path)
    assert set(done.rows) == {"medical-000001"}
    assert ["often show names" in reason for reason in done.rejected.values()] == [True, True, False]
    assert len(bring(tmp_path, "--allow-burned-in", out="allowed").rows) == 4
