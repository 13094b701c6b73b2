"""One decoder for every path: what photos of unusual form become, and which are refused, each with its name."""
import io
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from detco import images
from detco.content import Table, folder_digest
from detco.images import PIXELS, ImageError, decode, header, rgb
from detco.pool import FolderPool

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def saved(path, image, kind, **options):
    image.save(path, kind, **options)
    return path


def png16(path, values):
    """A PNG of 16 bits a channel, grey, of uint16 [H, W]."""
    return saved(path, Image.fromarray(values), "PNG")


def both(path):
    """The pixels [H, W, 3], the same by both ways."""
    array = np.asarray(rgb(path))
    assert torch.equal(decode(path), torch.from_numpy(array.copy()).permute(2, 0, 1)) and array.shape[2] == 3
    return array


def test_bright_parts_of_16_bits_a_channel_do_not_become_white(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = png16(tmp_path / "a.png", values)
    assert np.array_equal(both(path), (values >> 8)[..., None].repeat(3, 2))
    path = saved(tmp_path / "a.tif", Image.fromarray(values), "TIFF")
    assert np.array_equal(both(path)[..., 0], values >> 8)
    (tmp_path / "a.pgm").write_bytes(b"P5 256 256 65535\n" + values.astype(">u2").tobytes())
    assert np.array_equal(both(tmp_path / "a.pgm")[..., 0], values >> 8)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "RGB"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF"])
def test_other_modes_become_rgb(tmp_path, mode, kind):
    path = tmp_path / f"a.{kind}"
    try:
        Image.fromarray(NOISE).convert(mode).save(path, kind)
    except (OSError, KeyError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    with Image.open(path) as image:
        assert np.array_equal(both(path), np.asarray(image.convert("RGB")))


def test_transparency_is_dropped_and_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (both(path) == [255, 0, 0]).all()
    clear = Image.new("RGBA", (8, 6), (10, 200, 30, 0))
    assert (both(saved(tmp_path / "a.png", clear, "PNG")) == [10, 200, 30]).all()


def test_the_content_tells_the_format(tmp_path):
    path = saved(tmp_path / "photo.jpg", Image.fromarray(NOISE), "PNG")
    assert np.array_equal(both(path), NOISE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_lie_as_stored_whatever_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain, tagged = tmp_path / "plain.jpg", tmp_path / "tagged.jpg"
    saved(plain, Image.fromarray(NOISE), "JPEG"), saved(tagged, Image.fromarray(NOISE), "JPEG", exif=exif)
    assert np.array_equal(both(tagged), both(plain)) and header(tagged) == (60, 40, orientation)


def resized_header(code, width, height):
    """A JPEG whose header says another size."""
    place = code.index(b"\xff\xc0") + 5
    return code[:place] + struct.pack(">HH", height, width) + code[place + 4:]


@pytest.fixture
def refused(tmp_path):
    def check(content, words, name="photo.jpg"):
        path = tmp_path / name
        path.write_bytes(content)
        for read in (decode, rgb):
            with pytest.raises(ImageError) as caught:
                read(path)
            message = str(caught.value)
            assert message.startswith(f"{path}: ") and words in message and "\n" not in message
            assert isinstance(caught.value, OSError)
    return check


def test_what_cannot_be_read_is_named_with_the_reason(refused, tmp_path):
    code = io.BytesIO()
    Image.fromarray(NOISE).save(code, "JPEG")
    whole = code.getvalue()
    refused(b"", "truncated or not decodable (empty)")
    refused(b"GIF89a", "truncated or not decodable")
    refused(whole[:len(whole) // 2], "truncated or not decodable")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "truncated or not decodable (read are JPEG, PNG")
    refused(resized_header(whole, 20000, 20000), f"more than {PIXELS} pixels")
    refused(resized_header(whole, 9000, 9000), f"more than {PIXELS} pixels")
    large = io.BytesIO()
    Image.new("1", (8193, 8193)).save(large, "PNG")
    refused(large.getvalue(), f"more than {PIXELS} pixels")
    wide = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(wide, "TIFF")
    refused(wide.getvalue(), "32 bits a channel")


def test_folders_devices_and_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path, tmp_path / "pipe.jpg", "/dev/zero"):
        with pytest.raises(ImageError, match="no file, but a folder, device or pipe"):
            decode(path)
    with pytest.raises(ImageError, match="nowhere.jpg: missing"):
        decode(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="missing, or not to be reached"):
        decode("a\x00b")


def test_a_file_larger_than_any_photo_is_not_read(tmp_path):
    path = tmp_path / "photo.jpg"
    with open(path, "wb") as file:
        file.truncate(images.BYTES + 1)
    with pytest.raises(ImageError, match="more than any photo"):
        decode(path)


# ---- known by content


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("a/1.png", "a/2.png", "b/3.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(NOISE + np.uint8(number)).save(path)
    return tmp_path / "photos"


def test_a_pool_of_photos_is_known_by_their_content(folder, tmp_path):
    first = FolderPool.load(folder, tmp_path / "cache").fingerprint
    assert FolderPool.load(folder).fingerprint == FolderPool.load(folder, tmp_path / "cache").fingerprint == first
    one, two = ((folder / name).read_bytes() for name in ("a/1.png", "a/2.png"))
    (folder / "a/1.png").write_bytes(two), (folder / "a/2.png").write_bytes(one)
    assert FolderPool.load(folder, tmp_path / "cache").fingerprint != first
    (folder / "a/1.png").write_bytes(one), (folder / "a/2.png").write_bytes(two)
    assert FolderPool.load(folder, tmp_path / "cache").fingerprint == first
    (folder / "a/1.png").rename(folder / "a/0.png")
    assert FolderPool.load(folder, tmp_path / "cache").fingerprint != first


def test_files_that_did_not_change_are_not_read_again(folder, tmp_path, monkeypatch):
    names = ["a/1.png", "a/2.png", "b/3.png"]
    seen = []

    def look(path, head, tail):
        assert head == tail == path.read_bytes()
        seen.append(path.name)
        return "", (len(head),)

    first = Table(folder, tmp_path, look).of(names)
    assert [f.more[0] for f in first] == [f.size for f in first] and len(seen) == 3
    assert Table(folder, tmp_path, look).of(names) == first and len(seen) == 3
    (folder / "a/2.png").write_bytes(b"other")
    second = Table(folder, tmp_path, look).of(names)
    assert seen[3:] == ["2.png"] and second[1].digest != first[1].digest and second[::2] == first[::2]
    assert folder_digest(names, second) != folder_digest(names, first)
    [table] = tmp_path.glob("look-*.json")
    table.write_bytes(table.read_bytes().replace(b"2.png", b"9.png"))  # not as it was written: made again
    assert Table(folder, tmp_path, look).of(names) == second and len(seen) == 7


def test_large_files_are_looked_at_from_both_ends(tmp_path):
    content = os.urandom(700_000)
    (tmp_path / "file").write_bytes(content)
    ends = []
    Table(tmp_path, None, lambda path, head, tail: (ends.extend([head, tail]) or "", ())).of(["file"])
    assert ends == [content[:2**18], content[-2**18:]]
