"""Damaged films of every format: none passes in silence for another film."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from benchmarks import damaged_films as films
from benchmarks import hostile_bytes, hostile_films
from cxr import images
from cxr.images import damage, limits, run_codes, sectors, tiff
from cxr.reasons import BadImage

SIZE = 224
TOLERANCE = 2.0  # grey levels on average: less is no other film
SHAPE = (300, 256)
VARIANTS = [(kind, name) for kind, names in films.FORMATS.items() for name in names]
CHANGED_CODES = ("a bit", "a byte", "bits", "bytes")


def outcome(data: bytes) -> images.Decoded | None:
    try:
        return images.read(data, SIZE)
    except BadImage as error:
        assert error.reason in (
            *("corrupt", "truncated", "not_an_image", "several_frames", "too_small"),
            *("unsupported_format", "unsupported_samples", "too_many_pixels"),
            "too_complex",
        )
        return None


@pytest.mark.parametrize(
    ("count", "seed"), [(300, 1), pytest.param(1000, 0, marks=pytest.mark.slow)]
)
def test_no_damaged_film_passes_for_another(count, seed):
    silent, told, refused = [], [], 0
    for film in films.damaged(count, seed):
        found = outcome(film.damaged)
        if found is None:
            refused += 1
            continue
        sound = images.to_grey(film.sound, SIZE).astype(int)
        if np.abs(found.grey - sound).mean() > TOLERANCE:
            (told if found.unchecked else silent).append(film.name)
    # A changed bit of a JPEG may make another sound JPEG, which nothing can tell.
    assert all(name.startswith("JPEG") for name in silent)
    assert all(name.rpartition(", ")[2] in CHANGED_CODES for name in silent)
    assert len(silent) <= count // 100
    # In formats without checksums single values change; what is lost is seen.
    assert all(name.rpartition(", ")[2] in CHANGED_CODES for name in told)
    assert refused > 0.8 * count


def straight_bars() -> list[np.ndarray]:
    """Films with black parts whose edges are straight, or whole rows."""
    found = []
    for width in (500, 512, 1024):
        bar = films.film(0, 300, width).copy()
        bar[100:140] = 0
        side = films.film(1, 300, width).copy()
        side[:, : width // 4] = side[:, -width // 4 :] = 0
        foot = films.film(2, 300, width).copy()
        foot[200:, 30:] = 0
        found += [bar, side, foot]
    return found


def alarming() -> list[np.ndarray]:
    flat = [np.full(SHAPE, grey, np.uint8) for grey in (0, 1, 255)]
    dot = np.zeros((300, 512), np.uint8)
    dot[150, 100] = 1
    bordered = [films.bordered(seed, 200 + seed, 180 + 7 * seed) for seed in range(4)]
    return [*flat, dot, *bordered, *straight_bars()]


@pytest.mark.parametrize(("kind", "variant"), VARIANTS)
def test_no_sound_film_is_refused(kind, variant):
    for pixels in alarming():
        assert images.read(films.FORMATS[kind][variant](pixels), SIZE).format == kind


def sound(kind: str, variant: str) -> bytes:
    return films.sound(kind, variant, 0, *SHAPE)


# In tiles of 64 x 64 pixels a page is whole rows, as black parts are.
@pytest.mark.parametrize(
    ("kind", "variant"),
    [pair for pair in VARIANTS if pair != ("TIFF", "raw tiles")],
)
def test_a_lost_page_and_a_cut_are_seen_in_every_variant(kind, variant):
    data = films.sound(kind, variant, 0, 600, 500)
    at = len(data) // 2 // 4096 * 4096
    length = 4096 if len(data) > 3 * 4096 else 512
    lost = data[:at] + bytes(length) + data[at + length :]
    cut = films.cut_and_closed(data, kind, np.random.default_rng(0))
    for damaged in (lost, cut, data[: len(data) // 2]):
        with pytest.raises(BadImage, match=r"corrupt|truncated"):
            images.read(damaged, SIZE)


def test_a_lossless_webp_may_end_with_a_short_code():
    """Without two bytes and with a zero as padding this one can still be read."""
    data = films.FORMATS["WEBP"]["lossless"](films.film(0, 482, 571))
    assert images.read(data, SIZE).unchecked == "lossless WEBP"


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def tag_set(data: bytes, tag: int, value: int) -> bytes:
    """Returns a TIFF with another value of a tag."""
    kind, _, at = films._entry(data, tag)
    return changed(data, at, struct.pack("<H" if kind == 3 else "<I", value))


def longer_strip(compression: str) -> bytes:
    """A TIFF whose one strip holds two rows more than its picture."""
    pixels = films.Image.fromarray(films.film(0, *SHAPE))
    return tag_set(films.tiff(pixels, compression), 257, SHAPE[0] - 2)


def unsummed() -> bytes:
    """Deflate whose checksum is wrong."""
    data = sound("TIFF", "deflate")
    found = films.tags(data)
    end = found[273][-1] + found[279][-1]
    return changed(data, end - 4, bytes(4))


def longer_webp(variant: str, odd: int) -> bytes:
    """A WebP with bytes behind its coded data, an odd or an even number of all."""
    data = sound("WEBP", variant)
    body = data[20 : 20 + int.from_bytes(data[16:20], "little")]
    body += bytes(range(1, 41 + (len(body) + odd) % 2))
    return hostile_bytes._riff((data[12:16], body))


def longer_gif() -> bytes:
    """A GIF whose codes go on behind the picture."""
    data = films.saved(films.film(0, *SHAPE), "GIF", interlace=0)
    shorter = struct.pack("<H", SHAPE[0] - 1)
    at = films.gif_data(data) - 10
    return changed(changed(data, 8, shorter), at + 7, shorter)


def lost_sector(kind: str, variant: str, at: int = 20 * 512) -> bytes:
    return changed(sound(kind, variant), at, bytes(512))


def fax(compression: str) -> bytes:
    pixels = films.Image.fromarray(films.film(0, *SHAPE)).convert("1")
    return films.saved(pixels, "TIFF", compression=compression)


def moved_strip() -> bytes:
    """A TIFF whose second strip lies where its first does."""
    data = sound("TIFF", "raw strips")
    first = films.tags(data)[273][0]
    return changed(data, films._value_at(data, 273, 1), struct.pack("<I", first))


REFUSED = {
    "sector of a bmp": (lambda: lost_sector("BMP", "grey"), "corrupt", "zeros"),
    "palette of a bmp": (lambda: lost_sector("BMP", "grey", 512), "corrupt", "zeros"),
    "sector of a tiff": (lambda: lost_sector("TIFF", "raw"), "corrupt", "zeros"),
    "sector of a jpeg": (lambda: lost_sector("JPEG", "baseline"), "corrupt", ""),
    "end of a bmp": (
        lambda: (d := sound("BMP", "grey"))[: 90 * 512] + bytes(len(d) - 90 * 512),
        "corrupt",
        "zeros",
    ),
    "height of a bmp": (
        lambda: changed(sound("BMP", "grey"), 22, struct.pack("<i", SHAPE[0] - 9)),
        "corrupt",
        "its rows need",
    ),
    "place of a bmp's samples": (
        lambda: changed(sound("BMP", "grey"), 10, struct.pack("<I", 50)),
        "corrupt",
        "inside its header",
    ),
    "compression of a bmp": (
        lambda: changed(sound("BMP", "grey"), 30, b"\2"),
        "unsupported_format",
        "BMP compression 2",
    ),
    "runs of a bmp": (
        lambda: changed(d := sound("BMP", "run lengths"), 1079, bytes((d[1079] - 2,))),
        "corrupt",
        "run lengths do not fill",
    ),
    "no width in a bmp": (
        lambda: changed(sound("BMP", "grey"), 18, bytes(4)),
        "too_small",
        "0 x",
    ),
    "height of a tiff": (
        lambda: tag_set(sound("TIFF", "raw"), 257, SHAPE[0] - 1),
        "corrupt",
        "strip or tile 0",
    ),
    "strip of lzw": (lambda: longer_strip("tiff_lzw"), "corrupt", "its rows"),
    "strip of packbits": (lambda: longer_strip("packbits"), "corrupt", "its rows"),
    "strip of deflate": (lambda: longer_strip("tiff_adobe_deflate"), "corrupt", "rows"),
    "strip of jpeg": (lambda: longer_strip("jpeg"), "corrupt", "JPEG of 256 x 300"),
    "codes of jpeg in a tiff": (
        lambda: changed(sound("TIFF", "jpeg"), 9_001, bytes(300)),
        "corrupt",
        "JPEG: ",
    ),
    "deflate's checksum": (unsummed, "corrupt", "incorrect data check"),
    "a strip in two places": (moved_strip, "corrupt", "share byte"),
    "fax 3": (lambda: fax("group3"), "unsupported_format", "TIFF compression 3"),
    "fax 4": (lambda: fax("group4"), "unsupported_format", "TIFF compression 4"),
    "old jpeg in a tiff": (
        lambda: tag_set(sound("TIFF", "jpeg"), 259, 6),
        "unsupported_format",
        "TIFF compression 6",
    ),
    "longer webp": (lambda: longer_webp("lossy", 0), "corrupt", "go on behind"),
    "longer odd webp": (lambda: longer_webp("lossy", 1), "corrupt", "go on behind"),
    "longer vp8l": (lambda: longer_webp("lossless", 0), "corrupt", "go on behind"),
    "longer odd vp8l": (lambda: longer_webp("lossless", 1), "corrupt", "go on behind"),
    "size of a webp": (
        lambda: changed(sound("WEBP", "lossy"), 4, b"\xff\xff\xff"),
        "truncated",
        "bytes are missing",
    ),
    "canvas of a webp": (
        lambda: changed(sound("WEBP", "alpha"), 24, b"\7"),
        "corrupt",
        "canvas",
    ),
    "longer gif": (longer_gif, "corrupt", "coded data of 76800 pixels"),
    "screen of a gif": (
        lambda: changed(sound("GIF", "grey"), 6, b"\xff\1"),
        "corrupt",
        "does not fill its screen",
    ),
    "place of a gif's picture": (
        lambda: changed(d := sound("GIF", "grey"), films.gif_data(d) - 9, b"\1"),
        "corrupt",
        "does not fill its screen",
    ),
    "bits of a gif": (
        lambda: changed(d := sound("GIF", "grey"), films.gif_data(d), b"\x0b"),
        "corrupt",
        "indices of 11 bits",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_every_kind_of_damage_has_its_refusal(kind):
    make, reason, words = REFUSED[kind]
    with pytest.raises(BadImage) as caught:
        images.read(make(), SIZE)
    assert caught.value.reason == reason, caught.value.detail
    assert words in caught.value.detail


UNCHECKED = {
    ("BMP", "grey"): "BMP",
    ("BMP", "run lengths"): "",
    ("TIFF", "raw deep"): "uncompressed TIFF",
    ("TIFF", "lzw"): "",
    ("WEBP", "lossless"): "lossless WEBP",
    ("WEBP", "lossy"): "",
    ("GIF", "grey"): "",
    ("JPEG", "cmyk"): "",
}


@pytest.mark.parametrize("variant", UNCHECKED)
def test_what_nothing_checks_is_named(variant):
    assert images.read(sound(*variant), SIZE).unchecked == UNCHECKED[variant]


def test_the_note_counts_images_and_names_their_formats():
    note = images.unchecked_note({"BMP": 2, "uncompressed TIFF": 3})
    assert note.startswith("5 images ")
    assert "(2 BMP, 3 uncompressed TIFF)" in note


# --- counts of codes


@pytest.mark.parametrize("gif", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_lzw_stands_for_the_samples_of_the_film(gif, flat):
    pixels = np.full((400, 300), 7, np.uint8) if flat else films.film(0, 400, 300)
    if gif:
        data = films.saved(pixels, "GIF")
        codes = images.formats.gif.read_layout(data).codes
    else:
        _, codes = films._piece(films.Image.fromarray(pixels), "tiff_lzw")
    assert run_codes.lzw_length(codes, run_codes.lzw_budget(), gif=gif) == 120_000


def test_a_code_ahead_of_its_table_is_refused():
    codes = int("100000000" + "000000111" + "100001111", 2) << 5
    with pytest.raises(BadImage, match="not yet in the table"):
        run_codes.lzw_length(codes.to_bytes(4, "big"), run_codes.lzw_budget())


@pytest.mark.parametrize("row_bytes", [1, 128, 129, 1000])
def test_packbits_are_counted_in_rows(row_bytes):
    pixels = films.film(0, 40, row_bytes)
    _, codes = films._piece(films.Image.fromarray(pixels), "packbits")
    count = run_codes.packbits_rows(codes, row_bytes, run_codes.packbits_budget())
    assert count == 40


@pytest.mark.parametrize("codes", [b"\xfd\7\xfd\7", b"\5abcdef\5ab"])
def test_packbits_that_do_not_fill_a_row_are_refused(codes):
    """Rows of 6: a run of 4 and one of 4; a row, and one that the data do not fill."""
    with pytest.raises(BadImage, match="does not fill its width"):
        run_codes.packbits_rows(codes, 6, run_codes.packbits_budget())


def test_scans_of_a_tiffs_jpeg_cost_the_pixels_of_its_piece(monkeypatch):
    layout = tiff.Layout(100, 50, 8, 1, 7, 1, 100, 100, [], b"", 0)
    monkeypatch.setattr(damage, "check_jpeg", lambda part: 3)
    for limit, said in ((14_999, "more than 14999"), (15_000, "TIFF: JPEG")):
        budget = limits.Budget(limit, "pixels")
        with pytest.raises(BadImage, match=said):
            tiff._check_jpeg(b"\xff\xd8", tiff.Piece(0, 2, 50, 50), layout, budget)


# --- zeros


@pytest.mark.parametrize(
    ("begin", "end", "seen"),
    [(512, 1024, True), (1024, 4096, True), (511, 1024, False), (512, 1025, False)],
)
def test_only_runs_from_sector_to_sector_are_lost_ones(begin, end, seen):
    data = b"x" * begin + bytes(end - begin) + b"x" * 600
    if seen:
        with pytest.raises(BadImage, match=f"bytes {begin} to {end}"):
            sectors.check_sectors(data, "BMP")
    else:
        sectors.check_sectors(data, "BMP")


def test_a_picture_that_explains_no_run_excuses_no_end_but_the_files():
    def unexplained(begin, end):
        return False

    data = b"x" * 512 + bytes(513) + b"x" * 600
    sectors.check_sectors(data, "BMP", unexplained)
    with pytest.raises(BadImage, match="bytes 512 to 1025"):
        sectors.check_sectors(data[:1025], "BMP", unexplained)


def test_black_that_goes_on_below_is_natural():
    rows = np.full((8, 700), 9, np.uint8)
    rows[3:6, 100:612] = 0  # in row 3 from byte 2,048 to 2,560 of the file
    data = b"h" * (2048 - 2200 + 700) + rows.tobytes()
    begin = 2048 - 2200 + 700
    run = data.find(bytes(512))
    natural = sectors.natural_black(data, [begin], 700)
    assert natural(run, run + 512)
    alone = rows.copy()
    alone[4:6] = 9
    data = b"h" * begin + alone.tobytes()
    assert not sectors.natural_black(data, [begin], 700)(run, run + 512)


@pytest.mark.parametrize(("edge", "seen"), [(700, True), (100, False)])
def test_black_to_the_files_end_is_lost_where_no_edge_explains_it(edge, seen):
    rows = np.full((9, 700), 9, np.uint8)
    rows[:, edge:] = 0  # a black edge on the right, or none
    rows[5, 100:] = rows[6:] = 0
    head = b"h" * (8 * 512 - 5 * 700 - 100)  # the last black begins with a sector
    data = head + rows.tobytes()
    natural = sectors.natural_black(data, [len(head)], 700)
    if seen:
        with pytest.raises(BadImage, match="bytes 4096 to"):
            sectors.check_sectors(data, "BMP", natural)
    else:
        sectors.check_sectors(data, "BMP", natural)


# --- what is to cost much


FAST_BOMBS = {
    "TIFF, 100,000 strips": ("too_complex", "10000"),
    "TIFF, 3,000 strips in one place": ("corrupt", "share"),
    "TIFF, a looped directory": ("several_frames", ""),
    "TIFF, a huge count": ("too_complex", "16"),
    "TIFF, 200 MB in a strip of 250 kB": ("corrupt", "250000"),
    "TIFF, tiles of 4 Gpx": ("too_many_pixels", str(2 * limits.MAX_PIXELS)),
    "WEBP, a canvas of 256 Mpx": ("corrupt", "canvas"),
    "WEBP, 1,000 frames": ("several_frames", ""),
    "GIF, 5 million extensions": ("too_complex", "500000"),
    "GIF, 30 million blocks": ("too_complex", "500000"),
    "GIF, nothing but restarts": ("too_complex", str(run_codes.MAX_CODES)),
    "BMP, a width of 2 Gpx": ("too_many_pixels", str(limits.MAX_PIXELS)),
    "BMP, 50 Mpx in no bytes": ("truncated", "bytes are missing"),
    "BMP, 30 million runs": ("corrupt", "row 0"),
    "JPEG, 50 Mpx of print colours": ("too_many_pixels", "31111111"),
    "JPEG, 90 scans of 50 Mpx": ("too_complex", "500000000"),
}


@pytest.mark.parametrize("name", FAST_BOMBS)
def test_a_bomb_is_refused_by_its_limit(name):
    reason, limit = FAST_BOMBS[name]
    with pytest.raises(BadImage) as caught:
        images.read(hostile_bytes.BOMBS[name](), SIZE)
    assert caught.value.reason == reason, caught.value.detail
    assert limit in caught.value.detail


def test_many_tags_and_text_do_not_count():
    data = hostile_bytes.BOMBS["TIFF, 900 values of 30 MB"]()
    assert images.read(data, SIZE).width == 500


@pytest.mark.parametrize(
    ("count", "seed"), [(400, 5), pytest.param(3000, 0, marks=pytest.mark.slow)]
)
def test_mutants_are_refused_or_read(count, seed):
    for _, data in hostile_bytes.mutants(count, seed):
        outcome(data)


@pytest.mark.slow
def test_no_hostile_film_crashes_or_takes_the_machines_memory():
    """In processes of their own: generous limits, of what other processes disturb."""
    for name in ("PNG, 50 Mpx of 16 bits", "PNG, 50 Mpx of RGBA", "WEBP, 16 Mpx"):
        data = hostile_bytes.BOMBS[name]()
        for copies in (1, hostile_films.THREADS):
            _, added_mb, found = hostile_films.cost(data, copies)
            assert found == "ok"
            assert added_mb < 450


@pytest.mark.slow
def test_hostile_films_are_measured():
    flags = ["--damaged=60", "--mutants=200", "--bombs=false"]
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.hostile_films", *flags],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "CRASH" not in found.stdout
    assert " of 60 silently another film" in found.stdout


def test_deflate_is_unpacked_down_to_its_checksum():
    pixels = films.film(0, *SHAPE)
    body = zlib.compress(pixels.tobytes())
    data = hostile_bytes._tiff(
        body,
        _256=(SHAPE[1],),
        _257=(SHAPE[0],),
        _278=(SHAPE[0],),
        _259=(8,),
        _279=(len(body),),
    )
    assert images.read(data, SIZE).format == "TIFF"
    with pytest.raises(BadImage, match="truncated"):
        images.read(tag_set(data, 279, len(body) - 4), SIZE)
