"""Read DICOM files with pydicom (extra ``medical``): size, values, and the slices of a series."""
from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.formats.faults import UnreadablePicture
from detkit.registry import ConfigError


def pydicom_module() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise ConfigError("DICOM files need the package pydicom: pip install 'detkit[medical]'") from error
    return pydicom


def read_header(path: str | Path) -> Any:
    """Return the DICOM dataset without its pixels.

    Raises:
        UnreadablePicture: not a DICOM file.
    """
    pydicom = pydicom_module()
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except FileNotFoundError:
        raise UnreadablePicture('no such file') from None
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError) as error:
        raise UnreadablePicture(f'no DICOM file ({str(error).splitlines()[0]})') from None


def dicom_size(path: str | Path) -> tuple[int, int]:
    """Return the size (width, height) of a slice.

    Raises:
        UnreadablePicture: not a DICOM file, or it has no pixels.
    """
    header = read_header(path)
    if 'Rows' not in header or 'Columns' not in header:
        raise UnreadablePicture('a DICOM file without pixels')
    return int(header.Columns), int(header.Rows)


def read_values(path: str | Path, data: bytes | None = None) -> tuple[np.ndarray, Any]:
    """Return float32 values (H, W) after slope and intercept (Hounsfield units for CT), and the DICOM dataset. ``data``: bytes, if read.

    Raises:
        UnreadablePicture: not a DICOM file, several frames or colours, or a compression that is not installed.
    """
    pydicom = pydicom_module()
    try:
        found = pydicom.dcmread(path if data is None else BytesIO(data))
        pixels = found.pixel_array
    except FileNotFoundError:
        raise UnreadablePicture('no such file') from None
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError) as error:
        raise UnreadablePicture(f'no DICOM file that can be read ({str(error).splitlines()[0]})') from None
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        raise UnreadablePicture(f'its pixels cannot be decoded ({str(error).splitlines()[0]}). Compressed ones need pylibjpeg: pip install '
                                f"'pydicom[basic]' pylibjpeg-openjpeg") from None
    if pixels.ndim != 2:
        raise UnreadablePicture(f'it holds frames or colours, shape {pixels.shape}; one grey slice a file is read')
    values = pixels.astype(np.float32) * float(found.get('RescaleSlope', 1)) + float(found.get('RescaleIntercept', 0))
    return values, found


@lru_cache(maxsize=64)
def slices_beside(folder: str) -> dict[str, list[str]]:
    """Return series -> its files in ``folder``, ordered by position (or by number, if the files have no position)."""
    series: dict[str, list[tuple]] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in ('.dcm', '') or not path.is_file():
            continue
        try:
            header = read_header(path)
        except UnreadablePicture:
            continue          # the folder may contain other files; the requested file is read separately and raises its own error
        series.setdefault(str(header.get('SeriesInstanceUID', '')), []).append((position_of(header), str(path)))
    return {uid: [p for _, p in sorted(found)] for uid, found in series.items()}


def position_of(header: Any) -> float:
    """Return the position of a slice along its plane normal, mm; without a position, its number."""
    place, turn = header.get('ImagePositionPatient'), header.get('ImageOrientationPatient')
    if place is not None and turn is not None and len(place) == 3 and len(turn) == 6:
        normal = np.cross([float(v) for v in turn[:3]], [float(v) for v in turn[3:]])
        return float(np.dot(normal, [float(v) for v in place]))
    return float(header.get('InstanceNumber') or 0)
