"""Films decoded together: libjpeg-turbo's pixels or none, and no byte breaks it."""

import concurrent.futures
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr import cli, images
from cxr.input.jpeg import decoder as jpeg
from cxr.input.reader import Reader


@pytest.fixture(scope="module", autouse=True)
def machine_code():
    jpeg.prepare().join()


def encode(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def decode(films, shape):
    """Returns which films were decoded, and the pixels."""
    out = np.full((len(films), *shape), 77, np.uint8)
    return jpeg.Decoder().decode(films, out), out


def by_libjpeg(film, shape):
    out = np.empty(shape, np.uint8)
    images.decode(film, "jpeg", out=out)
    return out


def drawn(kind, shape, random):
    if kind == "noise":
        return random.integers(0, 256, shape, np.uint8)
    if kind == "extremes":  # blocks whose pixels leave 0..255 before they are clipped
        return np.where(random.random(shape) < 0.5, 0, 255).astype(np.uint8)
    if kind == "black":
        return np.zeros(shape, np.uint8)
    slope = np.add.outer(np.arange(shape[0]), 2 * np.arange(shape[1]))
    return (slope + random.integers(0, 9, shape)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "extremes", "black", "smooth"])
@pytest.mark.parametrize("quality", [1, 50, 95, 100])
@pytest.mark.parametrize("shape", [(8, 8), (16, 136), (24, 128), (67, 150), (1, 1)])
def test_pixels_are_libjpegs(kind, quality, shape):
    random = np.random.default_rng(0)
    # Seven: lanes take films one after the other, and end at different times.
    films = [encode(drawn(kind, shape, random), quality=quality) for _ in range(7)]
    done, out = decode(films, shape)
    assert done.all()
    for film, pixels in zip(films, out, strict=True):
        np.testing.assert_array_equal(pixels, by_libjpeg(film, shape))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 100),
    st.integers(1, 8),
    st.integers(0, 2**32 - 1),
)
def test_any_size_and_quality(height, width, quality, count, seed):
    random = np.random.default_rng(seed)
    kinds = ["noise", "extremes", "black", "smooth"]
    films = [
        encode(drawn(random.choice(kinds), (height, width), random), quality=quality)
        for _ in range(count)
    ]
    done, out = decode(films, (height, width))
    assert done.all()
    for film, pixels in zip(films, out, strict=True):
        np.testing.assert_array_equal(pixels, by_libjpeg(film, (height, width)))


def test_optimised_tables_hold_for_the_films_that_share_them():
    random = np.random.default_rng(1)
    first, other = (drawn(kind, (40, 40), random) for kind in ("smooth", "noise"))
    films = [encode(film, optimize=True) for film in (first, other, first)]
    done, out = decode(films, (40, 40))
    assert done.tolist() == [True, False, True]
    np.testing.assert_array_equal(out[2], by_libjpeg(films[2], (40, 40)))


def test_films_of_another_quality_are_left():
    film = drawn("smooth", (40, 40), np.random.default_rng(6))
    done, _ = decode([encode(film, quality=q) for q in (95, 50, 95)], (40, 40))
    assert done.tolist() == [True, False, True]


@pytest.mark.parametrize("extra", [b"\x55", b"\x55\x55\x55", b"\x00" * 9])
def test_bytes_behind_the_last_code_are_damage(extra):
    film = encode(drawn("smooth", (40, 40), np.random.default_rng(7)))
    done, _ = decode([film, film[:-2] + extra + film[-2:]], (40, 40))
    assert done.tolist() == [True, False]


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"restart_marker_blocks": 2}, {"rgb": True}, {"size": 48}],
    ids=str,
)
def test_other_kinds_are_left(options):
    random = np.random.default_rng(2)
    options = dict(options)
    size = options.pop("size", 40)
    pixels = drawn("smooth", (size, size), random)
    if options.pop("rgb", False):
        pixels = np.stack([pixels] * 3, -1)
    other = encode(pixels, **options)
    usual = encode(drawn("smooth", (40, 40), random))
    done, _ = decode([other, usual], (40, 40))
    assert not done.any()  # the first film decides
    done, out = decode([usual, other, usual], (40, 40))
    assert done.tolist() == [True, False, True]
    np.testing.assert_array_equal(out[2], by_libjpeg(usual, (40, 40)))


def test_metadata_in_front_is_skipped():
    film = encode(drawn("smooth", (40, 40), np.random.default_rng(3)), comment=b"left")
    done, out = decode([film], (40, 40))
    assert done.all()
    np.testing.assert_array_equal(out[0], by_libjpeg(film, (40, 40)))


@pytest.mark.parametrize("films", [[], [b""], [b"\xff\xd8"], [b"\xff\xd8\xff"] * 4])
def test_what_is_no_film_is_left(films):
    done, _ = decode(films, (40, 40))
    assert done.shape == (len(films),)
    assert not done.any()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_stays_within_its_film(data):
    """No crash, and its neighbours are decoded; CRC and SHA-256 tell damage."""
    random = np.random.default_rng(4)
    shape = (56, 56)
    films = [encode(drawn("smooth", shape, random)) for _ in range(4)]
    head = films[0].index(b"\xff\xda") + 10
    damaged = bytearray(films[1])
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "marker"]))
    at = data.draw(st.integers(head, len(damaged) - 1))
    if kind == "flip":
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del damaged[at : at + data.draw(st.integers(1, 400))]
    elif kind == "insert":
        damaged[at:at] = data.draw(st.binary(min_size=1, max_size=40))
    else:
        damaged[at : at + 2] = bytes([255, data.draw(st.integers(0, 255))])
    films[1] = bytes(damaged)
    done, out = decode(films, shape)
    assert done[[0, 2, 3]].all()
    for which in (0, 2, 3):
        np.testing.assert_array_equal(out[which], by_libjpeg(films[which], shape))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 620))
def test_any_bytes_in_the_header(junk, at):
    film = bytearray(encode(np.zeros((16, 16), np.uint8)))
    film[at : at + len(junk)] = junk
    done, _ = decode([bytes(film)] * 2, (16, 16))
    assert done[0] == done[1]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 400),
    st.integers(0, 3000),
    st.sampled_from([None, b"\x00", b"\xff\x00", b"\xfe"]),
    st.integers(0, 2**32 - 1),
)
def test_any_coded_bytes(height, width, length, repeated, seed):
    random = np.random.default_rng(seed)
    film = encode(np.zeros((height, width), np.uint8))
    head = film[: film.index(b"\xff\xda") + 10]
    coded = repeated * length if repeated else random.bytes(length)
    films = [film, head + coded + b"\xff\xd9", film, head + coded]
    done, out = decode(films, (height, width))
    assert done[[0, 2]].all()
    assert not out[[0, 2]].any()


@pytest.mark.slow
def test_no_index_leaves_its_array(tmp_path):
    """What the compiled loop leaves unchecked, checked."""
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__]
        + ["-k", "damage_stays or any_bytes or any_size or any_coded"],
        env={**os.environ, **checked},
        check=True,
    )


def test_threads_share_a_decoder():
    random = np.random.default_rng(5)
    films = [encode(drawn("smooth", (96, 96), random)) for _ in range(40)]
    decoder = jpeg.Decoder()

    def whole(_):
        out = np.empty((40, 96, 96), np.uint8)
        assert decoder.decode(films, out).all()
        return out

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(whole, range(12)))
    expected = np.stack([by_libjpeg(film, (96, 96)) for film in films])
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_a_reader_decodes_the_same_before_and_after(make_records, monkeypatch):
    """Until the machine code is there, libjpeg-turbo decodes."""
    record_set = make_records({"train": 12}, encoding="jpeg", image_size=40)
    loop = jpeg._Loop()
    monkeypatch.setattr(jpeg, "_loop", loop)
    monkeypatch.setattr(jpeg, "_WORTHWHILE", 20)
    readers = [Reader(record_set, "train", image_size=size) for size in (40, 24)]
    before = [reader.images(np.arange(12)) for reader in readers]
    assert loop.thread is None  # 12 films of a set were not worth it
    for reader in readers:
        reader.images(np.arange(12))
    loop.begin().join()
    calls = []
    right = loop.decode
    loop.decode = lambda *a: calls.append(a) or right(*a)
    for reader, films in zip(readers, before, strict=True):
        np.testing.assert_array_equal(reader.images(np.arange(12)), films)
    assert sum(len(films) for films, *_ in calls) == 24


def test_a_film_that_cannot_be_decoded_is_named(make_records):
    record_set = make_records({"train": 12}, encoding="jpeg", image_size=40)
    reader = Reader(record_set, "train", image_size=40)
    right = reader.encoded

    def cut(indices):
        return [
            film[:200] if index == 3 else film
            for index, film in zip(indices, right(indices), strict=True)
        ]

    reader.encoded = cut
    with pytest.raises(cli.DataError, match="record 3: "):
        reader.images(np.arange(6))
    assert reader.fault is not None
