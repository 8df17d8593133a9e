"""Damaged films are refused, whatever their decoder says; odd ones are not."""

import functools
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cxr import images
from cxr.images import damage, formats
from cxr.reasons import BadImage

SIZE = 64
SECTOR = 2048
TOLERANCE = 2.0  # grey levels on average: less is no other film


@functools.cache
def film(seed: int) -> np.ndarray:
    """A film with noise, so that its coded data fill many sectors: uint8 [300, 320]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:300j, -1:1:320j]
    lungs = sum(
        90 * np.exp(-(((x - c) / 0.3) ** 2 + (y / 0.6) ** 2)) for c in (-0.4, 0.4)
    )
    grey = 180 - lungs + 20 * np.sin(9 * y) + rng.normal(0, 8, x.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def saved(seed: int, kind: str, mode: str = "L", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(film(seed)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 8},
    "colour": {"mode": "RGB"},
    "print colours": {"mode": "CMYK"},
}


def coded_data(data: bytes) -> int:
    """Where a JPEG's first coded data begin."""
    scan = data.index(b"\xff\xda")
    return scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")


def zeroed(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(coded_data(data), len(data) - SECTOR - 2))
    return data[:at] + bytes(SECTOR) + data[at + SECTOR :]


def cut_and_closed(data: bytes, rng: np.random.Generator) -> bytes:
    # At least a tenth is missing.
    begin = coded_data(data)
    at = int(rng.integers(begin + 64, begin + 9 * (len(data) - begin) // 10))
    return data[:at] + b"\xff\xd9"


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(coded_data(data), len(data) - 2, 20):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


@pytest.mark.parametrize("harm", [zeroed, cut_and_closed], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", JPEGS)
def test_no_damaged_jpeg_passes_for_another_film(kind, harm):
    rng = np.random.default_rng(7)
    refused = 0
    for seed in range(20):
        data = saved(seed, "JPEG", **JPEGS[kind])
        sound = images.to_grey(data, SIZE).astype(int)
        try:
            grey = images.to_grey(harm(data, rng), SIZE)
        except BadImage as error:
            assert error.reason in ("corrupt", "truncated")
            refused += 1
        else:
            assert np.abs(grey - sound).mean() <= TOLERANCE
    assert refused >= 15  # what passes has lost a refinement that nobody sees


def test_flipped_bits_are_mostly_seen():
    rng = np.random.default_rng(3)
    refused = 0
    for seed in range(40):
        try:
            images.to_grey(flipped(saved(seed, "JPEG"), rng), SIZE)
        except BadImage:
            refused += 1
    assert refused >= 28  # the others still are JPEG, of slightly other films


def with_jfif_3(data: bytes) -> bytes:
    return data.replace(b"JFIF\0\x01", b"JFIF\0\x03", 1)


def with_odd_adobe(data: bytes) -> bytes:
    adobe = b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, 9)
    return data[:2] + adobe + data[2:]


def with_bad_profile(data: bytes) -> bytes:
    body = b"ICC_PROFILE\0" + bytes([3, 2]) + b"profile"  # the third of two parts
    return data[:2] + b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body + data[2:]


def with_stray_bytes(data: bytes) -> bytes:
    at = data.index(b"\xff\xdb")
    return data[:at] + b"stray" + data[at:]


def with_fill(data: bytes) -> bytes:
    return data[:2] + b"\xff" * (1 << 20) + data[2:]


ODD = [with_jfif_3, with_odd_adobe, with_bad_profile, with_stray_bytes, with_fill]


@pytest.mark.parametrize("odd", ODD, ids=lambda f: f.__name__)
def test_an_odd_header_is_no_damage_and_hides_none(odd):
    data = saved(0, "JPEG", mode="RGB")
    np.testing.assert_array_equal(
        images.to_grey(odd(data), SIZE), images.to_grey(data, SIZE)
    )
    with pytest.raises(BadImage, match="corrupt"):
        images.to_grey(odd(cut_and_closed(data, np.random.default_rng(1))), SIZE)


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def with_chunk(data: bytes, extra: bytes) -> bytes:
    at = 8 + 25  # behind the header's chunk
    return data[:at] + extra + data[at:]


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20)),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"tEXt", b"Comment\0damaged", crc=0),
        chunk(b"iCCP", b"junk"),
    ],
    ids=["long text", "compressed text", "damaged text", "no profile"],
)
def test_what_a_png_says_beside_its_pixels_does_not_count(extra):
    data = saved(0, "PNG")
    np.testing.assert_array_equal(
        images.to_grey(with_chunk(data, extra), SIZE), images.to_grey(data, SIZE)
    )


def test_a_png_keeps_its_orientation():
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = images.to_grey(saved(0, "PNG", exif=exif), SIZE)
    np.testing.assert_array_equal(
        turned[::-1, ::-1], images.to_grey(saved(0, "PNG"), SIZE)
    )


def test_a_png_whose_pixels_are_damaged_is_refused():
    data = saved(0, "PNG")
    at = data.index(b"IDAT") + 1000
    for changed, reason in (
        (data[:at] + bytes(64) + data[at + 64 :], "corrupt"),
        (data[:at], "truncated"),
        (data[: data.index(b"IEND") - 4], "truncated"),
    ):
        with pytest.raises(BadImage) as caught:
            images.to_grey(changed, SIZE)
        assert caught.value.reason == reason


def many_scans() -> bytes:
    data = saved(0, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 2000 + b"\xff\xd9"


def many_segments() -> bytes:
    data = saved(0, "JPEG")
    return data[:2] + b"\xff\xe1\0\2" * 200_000 + data[2:]


def many_chunks() -> bytes:
    return with_chunk(saved(0, "PNG"), chunk(b"tEXt", b"") * 200_000)


@pytest.mark.parametrize(
    "bomb", [many_scans, many_segments, many_chunks], ids=lambda f: f.__name__
)
def test_what_would_take_for_ever_is_refused_by_its_limit(bomb):
    with pytest.raises(BadImage, match="too_complex") as caught:
        images.to_grey(bomb(), SIZE)
    assert str(damage.MAX_SCANS) in caught.value.detail  # of both limits the beginning


def test_every_row_of_a_deep_image_is_windowed():
    samples = film(0).astype(np.uint16) * 257
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "PNG")
    np.testing.assert_array_equal(
        images.to_grey(buffer.getvalue(), SIZE), images.to_grey(saved(0, "PNG"), SIZE)
    )


@pytest.mark.parametrize("large", [True, False])
def test_large_images_are_decoded_one_at_a_time(monkeypatch, large):
    held = []

    def seen(image, **header):
        held.append(formats._one_at_a_time.locked())
        return image

    monkeypatch.setattr(formats, "to_eight_bits", seen)
    monkeypatch.setattr(formats, "_LARGE", 2 * 300 * 320 - large)
    images.to_grey(saved(0, "PNG"), SIZE)
    assert held == [large]
