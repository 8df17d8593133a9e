"""cxr.images: every accepted kind of file, every refused kind, exact reduction."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from cxr import images
from cxr.images import formats
from cxr.reasons import BadImage

SIZE = 32


def film(height: int = 96, width: int = 128) -> np.ndarray:
    """A smooth film without symmetry, uint8 [height, width], 20..230."""
    y, x = np.mgrid[0:height, 0:width]
    pattern = 0.5 * x / width + 0.3 * y / height + 0.2 * (x / width) * (y / height)
    return (20 + 210 * pattern).astype(np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    """The bytes of a picture file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def assert_close(grey: np.ndarray, expected: np.ndarray, tolerance: float = 3) -> None:
    difference = np.abs(grey.astype(int) - expected.astype(int))
    assert difference.max() <= tolerance


REFERENCE = images.to_grey(saved(film(), "PNG"), SIZE)


def test_the_film_is_the_squashed_whole_in_the_right_orientation():
    expected = images.area_resize(film(), SIZE)
    assert REFERENCE.dtype == np.uint8
    assert REFERENCE.shape == (SIZE, SIZE)
    assert_close(REFERENCE, expected, 2)


def rgb(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array).convert("RGB")


def with_alpha(array: np.ndarray, mode: str) -> Image.Image:
    image = Image.fromarray(array).convert(mode)
    image.putalpha(Image.fromarray(np.full(array.shape, 7, np.uint8)))
    return image


def ycck(array: np.ndarray) -> Image.Image:
    inverted = 255 - array
    zero = np.zeros_like(array)
    return Image.merge(
        "CMYK", [Image.fromarray(a) for a in (zero, zero, zero, inverted)]
    )


ACCEPTED = {
    "grey jpeg": lambda: saved(film(), "JPEG", quality=98),
    "progressive jpeg": lambda: saved(film(), "JPEG", quality=98, progressive=True),
    "rgb jpeg": lambda: saved(rgb(film()), "JPEG", quality=98),
    "cmyk jpeg": lambda: saved(ycck(film()), "JPEG", quality=98),
    "grey png": lambda: saved(film(), "PNG"),
    "rgb png": lambda: saved(rgb(film()), "PNG"),
    "rgba png": lambda: saved(with_alpha(film(), "RGBA"), "PNG"),
    "la png": lambda: saved(with_alpha(film(), "LA"), "PNG"),
    "palette png": lambda: saved(rgb(film()).quantize(256), "PNG"),
    "grey bmp": lambda: saved(film(), "BMP"),
    "rgb bmp": lambda: saved(rgb(film()), "BMP"),
    "webp": lambda: saved(rgb(film()), "WEBP", lossless=True),
    "tiff": lambda: saved(film(), "TIFF"),
    "lzw tiff": lambda: saved(film(), "TIFF", compression="tiff_lzw"),
    "16-bit tiff": lambda: saved(film().astype(np.uint16) * 257, "TIFF"),
    "gif": lambda: saved(film(), "GIF"),
    "16-bit png": lambda: saved(film().astype(np.uint16) * 257, "PNG"),
    "12 bits in a 16-bit png": lambda: saved(film().astype(np.uint16) * 16, "PNG"),
    "16-bit colour png": lambda: colour_png(film().astype(np.uint16) * 257),
    "white-is-zero tiff": lambda: white_is_zero(film()),
    "16-bit white-is-zero tiff": lambda: white_is_zero(film().astype(np.uint16) * 257),
    "pgm": lambda: saved(film(), "PPM"),
    "ppm": lambda: saved(rgb(film()), "PPM"),
    "16-bit pgm": lambda: (
        b"P5\n# by hand\n128 96\n65535\n" + (film().astype(">u2") * 257).tobytes()
    ),
    "12-bit pgm": lambda: (
        b"P5 128 96 4095\n"
        + (film().astype(np.uint32) * 4095 // 255).astype(">u2").tobytes()
    ),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_every_accepted_kind_gives_the_same_film(kind):
    decoded = images.read(ACCEPTED[kind](), SIZE)
    assert (decoded.width, decoded.height) == (128, 96)
    assert_close(decoded.grey, REFERENCE)


@pytest.mark.parametrize(
    ("kind", "mode", "container"),
    [
        ("grey jpeg", "L", "JPEG"),
        ("rgb jpeg", "RGB", "JPEG"),
        ("cmyk jpeg", "CMYK", "JPEG"),
        ("palette png", "P", "PNG"),
        ("16-bit png", "I;16", "PNG"),
        ("webp", "RGB", "WEBP"),
    ],
)
def test_mode_and_format_are_those_of_the_file(kind, mode, container):
    decoded = images.read(ACCEPTED[kind](), SIZE)
    assert (decoded.mode, decoded.format) == (mode, container)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: np.rot90,  # shown turned clockwise, so stored anticlockwise
        7: lambda a: np.rot90(np.transpose(a), 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](film()))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(stored, kind, exif=exif, **options)
    assert_close(images.to_grey(data, SIZE), REFERENCE, 5)


def test_a_jpeg_is_decoded_at_a_smaller_scale_without_moving_the_film():
    large = film(1024, 1024)
    decoded = images.to_grey(saved(large, "JPEG", quality=95), 224)
    assert_close(decoded, images.area_resize(large, 224), 2)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("side", [100, 224, 300, 448, 500, 900])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpegs_pixels_are_pillows(monkeypatch, mode, side, options):
    noisy = film(side, side + 40) ^ np.random.default_rng(0).integers(
        0, 32, (side, side + 40), np.uint8
    )
    data = saved(Image.fromarray(noisy).convert(mode), "JPEG", quality=90, **options)
    ours = images.to_grey(data, 224)
    monkeypatch.setattr(formats, "_luma", lambda *args: None)
    assert np.array_equal(ours, images.to_grey(data, 224))


def test_films_below_the_target_are_enlarged():
    assert images.to_grey(saved(film(20, 50), "PNG"), 64).shape == (64, 64)


@pytest.mark.parametrize(
    ("brightest", "expected"), [(255, 255), (1023, 255), (4095, 255), (65535, 255)]
)
def test_full_scale_is_the_smallest_bit_depth_that_fits(brightest, expected):
    samples = np.zeros((16, 16), np.uint16)
    samples[:, 8:] = brightest
    grey = images.to_grey(saved(samples, "PNG"), 16)
    assert grey[0, 0] == 0
    assert grey[0, 15] == expected


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and holds one row's worth."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG whose frame header promises width x height pixels."""
    data = bytearray(saved(film(64, 64), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_frame(marker: bytes, at: int, value: int) -> bytes:
    """A sound JPEG with one byte of its frame header changed."""
    data = bytearray(saved(film(), "JPEG"))
    data[data.index(marker) + at] = value
    return bytes(data)


def colour_png(samples: np.ndarray) -> bytes:
    """A PNG of three equal channels of 16 bits."""
    height, width = samples.shape
    pixels = np.repeat(samples[:, :, None], 3, axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def white_is_zero(pixels: np.ndarray) -> bytes:
    """A TIFF in which the largest sample is black."""
    inverted = np.iinfo(pixels.dtype).max - pixels
    data = bytearray(saved(inverted, "TIFF"))
    entry = struct.pack("<HHI", 262, 3, 1)
    at = data.index(entry) + len(entry)
    assert data[at] == 1  # BlackIsZero
    data[at] = 0
    return bytes(data)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(film(64, 64)), Image.fromarray(255 - film(64, 64))]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


REFUSED = {
    "nothing": (lambda: b"", "empty"),
    "text": (lambda: b"this is a text file named .jpeg\n", "not_an_image"),
    "zeros": (lambda: bytes(5000), "not_an_image"),
    "a stub of resource forks": (
        lambda: b"\0\x05\x16\x07\0\x02\0\0Mac OS X",
        "not_an_image",
    ),
    "html": (lambda: b"<!DOCTYPE html><html></html>", "not_an_image"),
    "pdf": (lambda: b"%PDF-1.7\n", "unsupported_format"),
    "zip": (lambda: b"PK\x03\x04" + bytes(90), "unsupported_format"),
    "a dicom without pixels": (
        lambda: bytes(128) + b"DICM" + bytes(64),
        "not_an_image",
    ),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(64), "unsupported_format"),
    "jpeg xl": (lambda: b"\xff\x0a" + bytes(64), "unsupported_format"),
    "jpeg 2000": (lambda: saved(film(), "JPEG2000"), "unsupported_format"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
    "jpeg magic only": (lambda: b"\xff\xd8\xff\xe0", "truncated"),
    "half a jpeg": (
        lambda: (data := saved(film(), "JPEG"))[: len(data) // 2],
        "truncated",
    ),
    "a jpeg without its end": (lambda: saved(film(), "JPEG")[:-2], "truncated"),
    "a jpeg whose tail was never written": (
        lambda: (data := saved(film(), "JPEG"))[: len(data) // 2] + bytes(len(data)),
        "truncated",
    ),
    "a jpeg with a broken header": (
        lambda: b"\xff\xd8\xff" + bytes(64) + b"\xff\xda\0\0\xff\xd9",
        "corrupt",
    ),
    "half a png": (
        lambda: (data := saved(film(), "PNG"))[: len(data) // 2],
        "truncated",
    ),
    "a png with one flipped byte": (
        lambda: flipped(data := saved(film(), "PNG"), len(data) // 2),
        "corrupt",
    ),
    "half a bmp": (lambda: saved(film(), "BMP")[:5000], "truncated"),
    "half a tiff": (lambda: saved(film(), "TIFF")[:5000], "truncated"),
    "half a webp": (lambda: saved(film(), "WEBP")[:100], "truncated"),
    "half a gif": (lambda: saved(film(), "GIF")[:2000], "truncated"),
    "a 20,000 x 20,000 png": (lambda: png_header(20_000, 20_000), "too_many_pixels"),
    "a 20,000 x 20,000 jpeg": (lambda: jpeg_header(20_000, 20_000), "too_many_pixels"),
    "an 8,000 x 8,000 png": (lambda: png_header(8_000, 8_000), "too_many_pixels"),
    "a tracking dot": (lambda: saved(film(1, 1), "PNG"), "too_small"),
    "an animated gif": (lambda: animated("GIF"), "several_frames"),
    "a tiff of two pages": (lambda: animated("TIFF"), "several_frames"),
    "an animated webp": (lambda: animated("WEBP"), "several_frames"),
    "a 12-bit jpeg": (
        lambda: jpeg_frame(b"\xff\xc0", 4, 12),
        "unsupported_samples",
    ),
    "a lossless jpeg": (lambda: jpeg_frame(b"\xff\xc0", 1, 0xC3), "unsupported_format"),
    "a jpeg-ls": (lambda: jpeg_frame(b"\xff\xc0", 1, 0xF7), "unsupported_format"),
    "a 12-bit colour png": (
        lambda: colour_png(film().astype(np.uint16) * 16),
        "unsupported_samples",
    ),
    "half a pgm": (lambda: saved(film(), "PPM")[:5000], "truncated"),
    "two pgms": (lambda: saved(film(), "PPM") * 2, "several_frames"),
    "a pgm and more": (lambda: saved(film(), "PPM") + bytes(range(90)), "corrupt"),
    "a pgm in plain text": (
        lambda: b"P2\n8 8\n255\n" + b"7 " * 64,
        "unsupported_format",
    ),
    "a pgm without a header": (lambda: b"P5\nx y\n", "corrupt"),
    "floating point": (
        lambda: saved(film().astype(np.float32), "TIFF"),
        "unsupported_samples",
    ),
    "negative samples": (
        lambda: saved(film().astype(np.int32) - 100, "TIFF"),
        "unsupported_samples",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_every_refused_kind_has_its_reason(kind):
    make, reason = REFUSED[kind]
    with pytest.raises(BadImage) as caught:
        images.read(make(), SIZE)
    assert caught.value.reason == reason, caught.value.detail
    assert "\n" not in caught.value.detail


def test_letters_burned_in_do_not_make_a_film_black():
    samples = np.full((100, 100), 2000, np.uint16)
    samples[:2, :100] = 0xFFFF  # 2 % of the pixels
    assert images.to_grey(saved(samples, "PNG"), 100)[50, 50] == round(
        2000 * 255 / 4095
    )
    samples[2, :1] = 0xFFFF
    assert images.to_grey(saved(samples, "PNG"), 100)[50, 50] == round(
        2000 * 255 / 65535
    )


def test_a_tiffs_largest_sample_is_its_full_scale():
    data = saved(np.full((32, 32), 200, np.uint16), "TIFF", tiffinfo={281: 4095})
    assert images.to_grey(data, 32)[0, 0] == round(200 * 255 / 4095)


def test_no_message_tells_where_an_object_lay():
    with pytest.raises(BadImage) as caught:
        images.read(b"\xff\xd8\xff" + bytes(64) + b"\xff\xda\0\0\xff\xd9", SIZE)
    assert "0x" not in caught.value.detail


def test_too_many_bytes(monkeypatch):
    monkeypatch.setattr(formats, "MAX_BYTES", 100)
    with pytest.raises(BadImage, match="too_many_bytes"):
        images.read(saved(film(), "PNG"), SIZE)


@given(cut=st.integers(0, 2000))
def test_a_cut_jpeg_is_never_taken(cut):
    data = saved(film(), "JPEG", quality=90)
    with pytest.raises(BadImage):
        images.read(data[: min(cut, len(data) - 1)], SIZE)


@given(junk=st.binary(max_size=300), head=st.sampled_from([*formats._MAGIC, b""]))
def test_junk_is_refused_or_decoded_but_never_crashes(junk, head):
    try:
        decoded = images.read(head + junk, SIZE)
    except BadImage:
        return
    assert decoded.grey.shape == (SIZE, SIZE)


@pytest.mark.parametrize("encoding", images.ENCODINGS)
def test_encode_keeps_the_film(encoding):
    data = images.encode(REFERENCE, encoding)
    if encoding == "raw":
        grey = np.frombuffer(data, np.uint8).reshape(SIZE, SIZE)
    else:
        grey = images.to_grey(data, SIZE)
    assert_close(grey, REFERENCE, 4 if encoding == "jpeg" else 0)


@pytest.mark.parametrize("encoding", images.ENCODINGS)
def test_decode_reads_what_encode_wrote(encoding):
    data, out = images.encode(REFERENCE, encoding), np.zeros((SIZE, SIZE), np.uint8)
    images.decode(data, encoding, out=out)
    assert_close(out, REFERENCE, 4 if encoding == "jpeg" else 0)
    if encoding != "raw":
        assert np.array_equal(out, images.to_grey(data, SIZE))


@pytest.mark.parametrize("encoding", images.ENCODINGS)
def test_decode_refuses_what_is_damaged_or_of_another_size(encoding):
    data, out = images.encode(REFERENCE, encoding), np.zeros((SIZE, SIZE), np.uint8)
    with pytest.raises(ValueError):
        images.decode(data[: len(data) // 2], encoding, out=out)
    with pytest.raises(ValueError):
        images.decode(data, encoding, out=np.zeros((SIZE + 8, SIZE + 8), np.uint8))
    with pytest.raises(ValueError):
        images.decode(data, encoding, out=np.zeros((SIZE - 8, SIZE - 8), np.uint8))


def test_quality_reaches_the_encoder():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    sizes = [len(images.encode(noise, "jpeg", quality=q)) for q in (30, 95)]
    assert sizes[0] < sizes[1] / 2
    assert len(images.encode(noise, "jpeg")) == sizes[1]


def test_encode_names_a_wrong_encoding():
    with pytest.raises(ValueError, match="'tiff'"):
        images.encode(REFERENCE, "tiff")


# --- area_resize


def slow_area_mean(image: np.ndarray, size: int) -> np.ndarray:
    """The definition, in exact integers: repeat to a common grid, then average."""
    height, width = image.shape
    common = np.repeat(np.repeat(image, size, 0), size, 1).astype(np.int64)
    sums = common.reshape(size, height, size, width).sum(axis=(1, 3))
    area = height * width
    return ((sums + area // 2) // area).astype(np.uint8)


@given(
    image=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)),
    size=st.integers(1, 24),
)
def test_area_resize_equals_its_definition(image, size):
    size = min(size, *image.shape)
    assert np.array_equal(images.area_resize(image, size), slow_area_mean(image, size))


@pytest.mark.parametrize(("source", "target"), [(224, 96), (512, 224), (300, 299)])
def test_area_resize_at_real_sizes(source, target):
    image = np.random.default_rng(1).integers(0, 256, (source, source), np.uint8)
    exact = slow_area_mean(image[:40, :40], 17)
    assert np.array_equal(images.area_resize(image[:40, :40], 17), exact)
    flat = np.full((source, source), 255, np.uint8)
    assert np.array_equal(
        images.area_resize(flat, target), np.full((target, target), 255)
    )


def test_area_resize_of_a_batch_is_that_of_each_film():
    batch = np.random.default_rng(2).integers(0, 256, (5, 64, 48), np.uint8)
    result = images.area_resize(batch, 20)
    assert result.shape == (5, 20, 20)
    for one, expected in zip(batch, result, strict=True):
        assert np.array_equal(images.area_resize(one, 20), expected)


def test_area_resize_at_its_own_size_is_the_identity():
    assert np.array_equal(images.area_resize(film(32, 32), 32), film(32, 32))


@pytest.mark.parametrize("size", [0, 97])
def test_area_resize_never_enlarges(size):
    with pytest.raises(ValueError, match=f"size={size}"):
        images.area_resize(film(96, 128), size)


def test_area_resize_refuses_other_types():
    with pytest.raises(ValueError, match="float64"):
        images.area_resize(film().astype(float), 8)
