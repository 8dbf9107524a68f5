"""Pictures to rows: known pixels, every kind of picture, order, hashes, and what will not decode."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from subpop.datasets.images import LIMIT, decode
from subpop.datasets.picture_files import SUFFIXES, Picture, is_picture, pictures_below
from subpop.types import BadInput


def png(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def random_image(seed: int, width: int = 8, height: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pictures(*contents: bytes) -> list[Picture]:
    return [Picture(f"{i:03d}.png", lambda content=content: content) for i, content in enumerate(contents)]


def test_pixels_of_the_right_size_are_kept_as_they_are():
    images = [random_image(seed) for seed in range(200)]
    contents = [png(image) for image in images]
    decoded = decode(pictures(*contents), 8, "toy")
    assert (decoded.x.shape, decoded.x.dtype) == ((200, 3, 8, 8), np.uint8)
    assert all(np.array_equal(decoded.x[i], np.asarray(image).transpose(2, 0, 1)) for i, image in enumerate(images))
    assert decoded.hashes.tolist() == [hashlib.md5(content).hexdigest() for content in contents]
    assert decoded.kept.tolist() == list(range(200))
    assert (decoded.original_sizes == 8).all()
    assert (decoded.left_out, decoded.notes) == ((), ())


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_the_middle_square_is_used(shape):
    width, height = shape
    pixels = np.zeros((height, width, 3), np.uint8)
    middle = pixels[:, 8:16] if width > height else pixels[8:16]
    middle[:] = np.asarray(random_image(1))
    decoded = decode(pictures(png(Image.fromarray(pixels))), 8, "toy")
    assert np.array_equal(decoded.x[0], np.asarray(random_image(1)).transpose(2, 0, 1))
    assert decoded.original_sizes.tolist() == [[width, height]]


def test_resizing_averages():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20, :, 0], pixels[:, 20:, 1] = 200, 100
    x = decode(pictures(png(Image.fromarray(pixels))), 10, "toy").x[0]
    assert x[0, :4].min() == x[0].max() == 200
    assert x[0, 6:].max() == x[1, :, :4].max() == x[2].max() == 0
    assert x[1, :, 6:].min() == 100


def test_a_jpeg_decoded_small_is_close_to_one_decoded_whole():
    slope = (np.add.outer(np.arange(256), np.arange(256)) // 2).astype(np.uint8)
    image = Image.fromarray(np.stack([slope, slope[::-1], slope[:, ::-1]], axis=2))
    jpeg = png(image, "JPEG", quality=95)
    whole = Image.open(io.BytesIO(jpeg)).resize((32, 32), Image.Resampling.BILINEAR)
    small = decode(pictures(jpeg), 32, "toy")
    assert np.abs(small.x[0].astype(int) - np.asarray(whole).transpose(2, 0, 1)).max() <= 2
    assert small.original_sizes.tolist() == [[256, 256]]


COLOUR = (200, 30, 60)
KINDS = {
    "L": (png(Image.new("L", (8, 8), 77)), (77, 77, 77)),
    "LA": (png(Image.new("LA", (8, 8), (77, 10))), (77, 77, 77)),
    "1": (png(Image.new("1", (8, 8), 1)), (255, 255, 255)),
    "RGBA": (png(Image.new("RGBA", (8, 8), (*COLOUR, 40))), COLOUR),
    "palette": (png(Image.new("RGB", (8, 8), COLOUR).quantize(4)), COLOUR),
    "gif": (png(Image.new("RGB", (8, 8), COLOUR), "GIF"), COLOUR),
    "bmp": (png(Image.new("RGB", (8, 8), COLOUR), "BMP"), COLOUR),
    "grey jpeg": (png(Image.new("L", (8, 8), 77), "JPEG"), (77, 77, 77)),
    "cmyk jpeg": (png(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_rgb(kind):
    content, expected = KINDS[kind]
    x = decode(pictures(content), 8, "toy").x[0].astype(int)
    assert np.abs(x - np.array(expected)[:, None, None]).max() <= 3


MIRRORED = Image.Transpose.FLIP_LEFT_RIGHT
STORED = {  # how an upright picture is stored under each EXIF orientation
    1: (), 2: (MIRRORED,), 3: (Image.Transpose.ROTATE_180,), 4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,), 6: (Image.Transpose.ROTATE_90,), 7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_270,),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_put_upright(orientation, kind):
    upright, exif = random_image(3, 16, 8), Image.Exif()
    exif[0x0112], stored = orientation, upright
    for step in STORED[orientation]:
        stored = stored.transpose(step)
    decoded = decode(pictures(png(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))), 8, "toy")
    assert np.array_equal(decoded.x[0], np.asarray(upright)[:, 4:12].transpose(2, 0, 1))
    assert decoded.original_sizes.tolist() == [[16, 8]]


def test_a_turned_jpeg_is_put_upright_although_it_is_decoded_small():
    pixels, exif = np.zeros((256, 256, 3), np.uint8), Image.Exif()
    pixels[:128] = 200
    exif[0x0112] = 6
    small = decode(pictures(png(Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)), 32, "toy").x[0]
    assert small[:, :15].min() > 190
    assert small[:, 17:].max() < 10


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM", b"Exif\x00\x00nonsense of no kind", b"Exif\x00\x00II*\x00\xff\xff\xff\xff"])
def test_tags_that_cannot_be_read_cost_no_picture(exif):
    image = random_image(4)
    assert np.array_equal(decode(pictures(png(image, exif=exif)), 8, "toy").x[0], np.asarray(image).transpose(2, 0, 1))


def test_every_suffix_is_one_that_pillow_opens():
    Image.init()
    opened = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    assert SUFFIXES - {".mpo", ".avif", ".avifs", ".qoi"} <= opened  # an .mpo is opened as a JPEG; the rest by later versions


GOOD = png(random_image(0))
BROKEN = {
    "cut short": GOOD[: len(GOOD) // 2],
    "text": b"hello",
    "empty": b"",
    "png header only": GOOD[:20],
    "cut jpeg": png(random_image(0, 64, 64), "JPEG")[:400],
    "16 bits": png(Image.fromarray(np.full((8, 8), 40_000, np.uint16))),
    "damaged chunk": GOOD[:30] + b"\xff" * 8 + GOOD[38:],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_will_not_decode_is_named_and_left_out(kind):
    contents = [GOOD] * 49 + [BROKEN[kind]] + [png(random_image(2))] * 50
    decoded = decode(pictures(*contents), 8, "toy")
    assert len(decoded.x) == len(decoded.hashes) == len(decoded.original_sizes) == 99
    assert decoded.kept.tolist() == [*range(49), *range(50, 100)]
    assert np.array_equal(decoded.x[49], np.asarray(random_image(2)).transpose(2, 0, 1))
    assert decoded.left_out[0].startswith("049.png (")
    assert decoded.notes == (f"1 of 100 left out, unreadable: {decoded.left_out[0]}",)
    assert "0x" not in decoded.notes[0]  # no addresses: the note is the same each time


def test_too_many_undecodable_pictures_are_refused():
    assert LIMIT == 0.01
    bad = pictures(*[b"no"] * 7, *[GOOD] * 93)
    with pytest.raises(BadInput, match=r"toy: 7 of 100 .* more than 1%: 000\.png \(.*004\.png \(.*\) and 2 more; replace"):
        decode(bad, 8, "toy")
    assert len(decode(bad, 8, "toy", limit=0.07).x) == 93
    with pytest.raises(BadInput, match="1 of 1 pictures"):
        decode(pictures(b"no"), 8, "toy")


def test_a_file_that_vanishes_is_one_that_will_not_decode(tmp_path):
    gone = Picture("gone.png", (tmp_path / "gone.png").read_bytes)
    assert decode([*pictures(*[GOOD] * 120), gone], 8, "toy").left_out[0].startswith("gone.png (")


@pytest.mark.parametrize("size", [0, -1, 5000])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(BadInput, match="toy: size"):
        decode(pictures(GOOD), size, "toy")


def test_no_pictures_are_refused():
    with pytest.raises(BadInput, match=r"toy: there are no pictures.*\.jpg"):
        decode([], 8, "toy")


def test_a_folder_lists_pictures_by_name(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a/x.jpeg", "a.png", "a/notes.txt", "a/._x.jpeg", ".hidden/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = pictures_below(tmp_path)
    assert [picture.name for picture in found] == ["a.png", "a/x.jpeg", "b/1.png", "b/2.JPG"]
    assert [picture.read() for picture in found] == [picture.name.encode() for picture in found]
    assert [picture.file_name for picture in found] == ["a.png", "x.jpeg", "1.png", "2.JPG"]
    assert pictures_below(tmp_path / "nowhere") == pictures_below(Path(tmp_path / "a.png")) == []
    assert is_picture("./a.png")
    assert not is_picture("a")


def test_a_file_beyond_all_bounds_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    [picture] = pictures_below(tmp_path)
    with pytest.raises(BadInput, match=r"huge\.png \(1099511627776 bytes, more than"):
        decode([picture], 8, "toy")


def test_the_bar_is_for_terminals_only(monkeypatch, capsys):
    import sys

    decode(pictures(*[GOOD] * 3), 8, "toy")
    assert capsys.readouterr().err == "subpop: decoding toy\n"  # one line that says what goes on, and no bar
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    decode(pictures(*[GOOD] * 3), 8, "toy")
    assert "decoding toy" in capsys.readouterr().err
