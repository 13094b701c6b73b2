"""The one way to read a photo: its pixels as stored, uint8 RGB, of bounded size; or an error that names the file.

Pixels lie as the file stores them: an EXIF orientation is not applied, neither in pretraining nor in features nor in
detection, so that boxes given for the stored pixels lie on their objects. So does torchvision's loader, with which the
public code of these methods reads. Grey, palette and CMYK images become RGB, 16 bits a channel keep the upper eight,
transparency is dropped, of an animation the first frame counts. The content tells the format, not the name.
"""
import io
import stat
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detco.errors import UserError

if TYPE_CHECKING:  # late: who only lists data needs neither
    from PIL.Image import Image
    from torch import Tensor

PIXELS = 2**26  # of a photo, at most: 8192 x 8192, 200 MB decoded
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # Pillow's others start programs, or hold no photos
BYTES = 8 * PIXELS  # of a file, at most: what the largest photo takes without compression, 16 bits a channel
BROKEN = "truncated or not decodable"
ORIENTATION = 0x0112  # EXIF's tag; 1 for as stored, 5 to 8 swap the sides

warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's; PIXELS is the stricter one
warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)  # it is dropped, as said above


class ImageError(UserError, OSError):
    """A photo that cannot be read: which, and why."""


class Header(NamedTuple):
    """What a photo's file says of it, without its pixels: sides as stored, EXIF orientation."""

    width: int
    height: int
    orientation: int


def header(path: str | Path) -> Header:
    """A photo's header. Raises ImageError for what `rgb` would refuse without decoding."""
    with open_regular(path) as file, _opened(file, str(path)) as image:
        try:
            orientation = image.getexif().get(ORIENTATION, 1)
        except Exception:
            orientation = 1
        width, height = image.size
        return Header(width, height, orientation if orientation in range(1, 9) else 1)


def rgb(source: str | Path | bytes, name: str | None = None) -> "Image":
    """A photo, of a file or of its bytes, in mode RGB.

    Args:
        name: what errors call it; None for its path.
    Raises ImageError.
    """
    name = name or str(source)
    with (io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)) as file, \
            _opened(file, name) as image:
        try:
            return _converted(image)
        except Exception as error:
            raise ImageError(f"{name}: {BROKEN} ({error})") from None


def decode(path: str | Path) -> "Tensor":
    """A photo as uint8 [3, H, W], RGB: `rgb`'s pixels. Raises ImageError.

    torchvision decodes JPEGs, faster than Pillow and to the same pixels; its decoder of PNGs ends the process at some
    broken ones.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2.functional import pil_to_tensor

    with open_regular(path) as file:
        data = file.read()
    if _is_plain_jpeg(data):
        try:
            return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        except RuntimeError:  # broken, or of a form that only Pillow reads
            pass
    return pil_to_tensor(rgb(data, str(path)))


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether a JPEG's frame header says 1 or 3 channels and no more than PIXELS. Pillow decides on all others; it
    would take as long to open a small photo as a twentieth of its decoding."""
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 10 <= len(data) and data[at] == 0xFF:
        if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):  # frames, and what is none of them
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            return height * width <= PIXELS and channels in (1, 3)
        at += 2 + int.from_bytes(data[at + 2:at + 4], "big")
    return False


def open_regular(path: str | Path):
    """Open a file to read its bytes. Raises ImageError where it is none, is empty or larger than any photo."""
    try:
        found = Path(path).stat()  # before opening: a pipe would wait for ever
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: missing, or not to be reached ({getattr(error, 'strerror', error)})") from None
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{path}: no file, but a folder, device or pipe")
    if not found.st_size:
        raise ImageError(f"{path}: {BROKEN} (empty)")
    if found.st_size > BYTES:
        raise ImageError(f"{path}: {found.st_size} bytes, more than any photo")
    try:
        return open(path, "rb")
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None


def _opened(file, name: str) -> "Image":
    """Pillow's image, not decoded yet. Raises ImageError for what is no photo, or none of a kind that is read."""
    from PIL import Image

    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more than {PIXELS} pixels") from None
    except Exception:
        raise ImageError(f"{name}: {BROKEN} (read are {', '.join(FORMATS)})") from None
    if image.width * image.height > PIXELS:
        raise ImageError(f"{name}: more than {PIXELS} pixels")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # whose I holds 16 bits
        raise ImageError(f"{name}: 32 bits a channel, where 8 or 16 are read")
    return image


def _converted(image: "Image") -> "Image":
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion cuts at 255, and bright parts become white
        import numpy as np
        from PIL import Image

        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
