"""What the header of a picture says, without decoding it."""
from __future__ import annotations

from pathlib import Path

from detkit.data.formats.faults import BrokenAnnotations

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.dcm')
TURNED = (5, 6, 7, 8)      # EXIF orientations that swap width and height
ORIENTATION = 0x0112


class UnreadablePicture(ValueError):
    """No picture, or one without a readable header; the message is the reason alone."""


def picture_size(path: str | Path, upright: bool = True) -> tuple[int, int]:
    """(width, height) in pixels, of the picture as EXIF turns it unless ``upright`` is False. Takes no memory, however large it is.

    Raises:
        UnreadablePicture: there is no file, or its header says no size.
    """
    if Path(path).suffix.lower() == '.dcm':
        from detkit.data.formats.dicom import dicom_size
        return dicom_size(path)
    from PIL import Image, UnidentifiedImageError
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None       # only the header is read; size is the caller's matter
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            says = picture.format in ('JPEG', 'TIFF', 'WEBP') or 'exif' in picture.info    # a PNG without it would be read to its end
            turned = upright and says and picture.getexif().get(ORIENTATION) in TURNED
            return (height, width) if turned else (width, height)
    except FileNotFoundError:
        raise UnreadablePicture('no such file') from None
    except UnidentifiedImageError:
        raise UnreadablePicture('no picture, or a damaged one') from None
    except (OSError, SyntaxError, ValueError) as error:                # SyntaxError: Pillow's word for a broken PNG
        raise UnreadablePicture(str(error) or type(error).__name__) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def size_of(path: str | Path, source: str | Path) -> tuple[int, int]:
    """As ``picture_size``, for an annotation file that does not say the size.

    Raises:
        BrokenAnnotations: naming ``source`` and the picture.
    """
    try:
        return picture_size(path)
    except UnreadablePicture as error:
        raise BrokenAnnotations(f'{source}: the size of {path} is needed and cannot be read ({error}). Put the picture there, or take it '
                                f'out of the annotations.') from None


def pictures_below(folder: Path) -> list[Path]:
    """All pictures below ``folder``, by name."""
    return sorted(p for p in folder.rglob('*') if p.suffix.lower() in SUFFIXES and p.is_file())
