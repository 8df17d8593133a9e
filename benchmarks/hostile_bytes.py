"""Makes films that are to cost a decoder much, and mutants of sound films.

Everything comes from a seed; every bomb says in its name what it is.
"""

import functools
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from benchmarks import damaged_films as films

WIDE = 7071  # pixels: squared, just below 50 million
_SMALL = films.SIZES[:2]


def _png(width: int, height: int, depth: int, colour: int, interlaced=0, extra=b""):
    """A PNG of zeros: `width` x `height` samples in a few kB."""
    bits = depth * {0: 1, 2: 3, 6: 4}[colour]
    row, packer = bytes(1 + -(-width * bits // 8)), zlib.compressobj(9)
    rows = 2 * height if interlaced else height  # more than enough
    body = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    parts = [films.png_chunk(*chunk) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + parts[0] + extra + parts[1] + parts[2]


def _small(kind: str, variant: str) -> bytes:
    return films.sound(kind, variant, 0, *_SMALL[1])


def _text_bomb(kind: bytes, head: bytes) -> bytes:
    body = head + zlib.compress(bytes(200 << 20))
    return _png(300, 300, 8, 0, extra=films.png_chunk(kind, body))


def _flat(mode: str, side: int = WIDE) -> Image.Image:
    return Image.new(mode, (side, side))


def _scans(count: int, side: int) -> bytes:
    data = films.saved(_flat("L", side), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


# --- TIFF


def _tags(**changed: tuple) -> dict[int, tuple]:
    found = {256: (500,), 257: (500,), 258: (8,), 259: (1,), 262: (1,), 277: (1,)}
    found |= {278: (500,), 273: (8,), 279: (250_000,)}
    return found | {int(tag[1:]): value for tag, value in changed.items()}


def _tiff(body: bytes, **changed: tuple) -> bytes:
    found = _tags(**changed)
    start = len(films.directory(found))
    if "_273" not in changed:
        found[273] = (start,)
    return films.directory(found) + body


def _many_strips(count: int) -> bytes:
    side = {"_256": (100,), "_257": (count,), "_278": (1,)}
    head = len(films.directory(_tags(**side, _273=(0,) * count, _279=(100,) * count)))
    places = tuple(range(head, head + 100 * count, 100))
    return _tiff(bytes(100 * count), **side, _273=places, _279=(100,) * count)


def _shared_strips(count: int) -> bytes:
    """Strips that all lie in the same place."""
    body = zlib.compress(bytes(4000 * 4))
    side = {"_256": (4000,), "_257": (4 * count,), "_278": (4,), "_259": (8,)}
    head = len(films.directory(_tags(**side, _273=(0,) * count, _279=(9,) * count)))
    return _tiff(body, **side, _273=(head,) * count, _279=(len(body),) * count)


def _many_directories(count: int) -> bytes:
    data = bytearray(_tiff(bytes(250_000)))
    entries = data[8 : 8 + 2 + 12 * 9]
    for number in range(count):
        link = 8 + len(entries) if not number else len(data) - 4
        struct.pack_into("<I", data, link, len(data))
        data += entries + bytes(4)
    return bytes(data)


def _looped_directory() -> bytes:
    data = bytearray(_tiff(bytes(250_000)))
    struct.pack_into("<I", data, 8 + 2 + 12 * 9, 8)
    return bytes(data)


def _greedy_tags(count: int, kept: bool) -> bytes:
    """Tags whose values all are the whole file."""
    body = bytes(30 << 20)
    data = bytearray(_tiff(body + bytes(250_000)))
    at = len(data)
    old = data[10 : 10 + 12 * 9]
    extra = [
        struct.pack("<HHII", (60_000 if not kept else 320) + n, 7, len(body), 200)
        for n in range(count)
    ]
    entries = sorted([*(bytes(old[i : i + 12]) for i in range(0, 108, 12)), *extra])
    data += struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    struct.pack_into("<I", data, 4, at)
    return bytes(data)


def _deflate_flood() -> bytes:
    body = zlib.compress(bytes(200 << 20), 9)
    return _tiff(body, _259=(8,), _279=(len(body),))


def _many_jpeg_strips(count: int) -> bytes:
    return films.tiff(_flat("L", 8 * count), "jpeg", rows=8)


def _by_libtiff(mode: str, compression: str, side: int = WIDE) -> Callable[[], bytes]:
    return lambda: films.saved(_flat(mode, side), "TIFF", compression=compression)


# --- WebP, GIF, BMP


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(part)) + part + bytes(len(part) % 2)
        for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunk() -> tuple[bytes, bytes]:
    data = _small("WEBP", "lossless")
    return data[12:16], data[20 : 20 + int.from_bytes(data[16:20], "little")]


def _wide_webp() -> bytes:
    flags = struct.pack("<I", 0) + (16_000).to_bytes(3, "little") * 2
    return _riff((b"VP8X", flags), _webp_chunk())


def _many_webp_chunks(count: int) -> bytes:
    canvas = struct.pack("<I", 0) + b"".join(
        (side - 1).to_bytes(3, "little") for side in _SMALL[1][::-1]
    )
    chunks = [(b"VP8X", canvas), _webp_chunk(), *[(b"JUNK", b"")] * count]
    return _riff(*chunks)


def _many_frames(kind: str, count: int, side: int) -> bytes:
    frames = [Image.new("L", (side, side), number % 256) for number in range(count)]
    return films.saved(
        frames[0], kind, save_all=True, append_images=frames[1:], duration=1
    )


def _gif_with(extra: bytes) -> bytes:
    data = _small("GIF", "grey")
    at = 13 + 768
    return data[:at] + extra + data[at:]


def _gif_blocks(size: int) -> bytes:
    """Codes in sub-blocks of `size` bytes, 60 MB of them."""
    data = _small("GIF", "grey")
    at = films.gif_data(data) + 1
    return data[:at] + (bytes((size,)) + bytes(size)) * (60_000_000 // (size + 1))


def _gif_codes(side: int, codes: bytes) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    head += b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x08"
    blocks = b"".join(
        bytes((len(codes[i : i + 255]),)) + codes[i : i + 255]
        for i in range(0, len(codes), 255)
    )
    return head + blocks + b"\0;"


def _restarts() -> bytes:
    """Nothing but marks that restart the table: 256 in 9 bits."""
    bits = "".join("000000001" for _ in range(8))
    block = int(bits[::-1], 2).to_bytes(9, "little")
    return _gif_codes(WIDE, block * 4_000_000)


def _random_codes() -> bytes:
    """12 million and more codes of single pixels."""
    rng = np.random.default_rng(0)
    sound = films.saved(rng.integers(0, 256, (3600, 3600), np.uint8), "GIF")
    return sound


def _bmp(width: int, height: int, bits: int, compression: int, body: bytes) -> bytes:
    palette = bytes(4 * (1 << bits)) if bits <= 8 else b""
    offset = 54 + len(palette)
    head = struct.pack("<IHHI", offset + len(body), 0, 0, offset)
    info = struct.pack("<IiiHHII", 40, width, height, 1, bits, compression, len(body))
    return b"BM" + head + info + bytes(16) + palette + body


BOMBS: dict[str, Callable[[], bytes]] = {
    "JPEG, 2,000 scans": lambda: _scans(2000, 1000),
    "JPEG, 90 scans of 50 Mpx": lambda: _scans(80, WIDE),
    "JPEG, 50 Mpx": lambda: films.saved(_flat("L"), "JPEG"),
    "JPEG, 50 Mpx in colour": lambda: films.saved(_flat("RGB"), "JPEG"),
    "JPEG, 50 Mpx, progressive": lambda: films.saved(
        _flat("L"), "JPEG", progressive=True
    ),
    "JPEG, 50 Mpx in colour, progressive": lambda: films.saved(
        _flat("RGB"), "JPEG", progressive=True, subsampling=0
    ),
    "JPEG, 50 Mpx of print colours": lambda: films.saved(_flat("CMYK"), "JPEG"),
    "PNG, 50 Mpx of 16 bits": lambda: _png(WIDE, WIDE, 16, 0),
    "PNG, 50 Mpx of 16 bits, interlaced": lambda: _png(WIDE, WIDE, 16, 0, 1),
    "PNG, 50 Mpx, interlaced": lambda: _png(WIDE, WIDE, 8, 0, 1),
    "PNG, 50 Mpx of RGBA": lambda: _png(WIDE, WIDE, 8, 6),
    "PNG, 50 Mpx of 16-bit RGBA": lambda: _png(WIDE, WIDE, 16, 6),
    "PNG, 50 Mpx of 1 bit": lambda: _png(WIDE, WIDE, 1, 0),
    "PNG, 200 MB of text": lambda: _text_bomb(b"zTXt", b"Comment\0\0"),
    "PNG, 200 MB of profile": lambda: _text_bomb(b"iCCP", b"profile\0\0"),
    "PNG, 200 MB of international text": lambda: _text_bomb(
        b"iTXt", b"Comment\0\1\0\0\0"
    ),
    "TIFF, 50 Mpx of Deflate": _by_libtiff("L", "tiff_adobe_deflate"),
    "TIFF, 50 Mpx of LZW": _by_libtiff("L", "tiff_lzw"),
    "TIFF, 50 Mpx of PackBits": _by_libtiff("L", "packbits"),
    "TIFF, 50 Mpx of fax": _by_libtiff("1", "group4"),
    "TIFF, 50 Mpx of JPEG": _by_libtiff("L", "jpeg"),
    "TIFF, 39 Mpx of 16-bit LZW": _by_libtiff("I;16", "tiff_lzw", 6200),
    "TIFF, 34 Mpx of RGB Deflate": _by_libtiff("RGB", "tiff_adobe_deflate", 5800),
    "TIFF, 50 Mpx of RGB Deflate": _by_libtiff("RGB", "tiff_adobe_deflate"),
    "TIFF, 50 Mpx as they are": lambda: films.saved(_flat("L"), "TIFF"),
    "TIFF, 100,000 strips": lambda: _many_strips(100_000),
    "TIFF, 9,999 strips": lambda: _many_strips(9_999),
    "TIFF, 3,000 strips in one place": lambda: _shared_strips(3_000),
    "TIFF, 100,000 directories": lambda: _many_directories(100_000),
    "TIFF, a looped directory": _looped_directory,
    "TIFF, 900 values of 30 MB": lambda: _greedy_tags(900, kept=False),
    "TIFF, a value of 30 MB": lambda: _greedy_tags(1, kept=True),
    "TIFF, a huge count": lambda: _tiff(bytes(250_000), _256=(500,) * 9_000),
    "TIFF, 200 MB in a strip of 250 kB": _deflate_flood,
    "TIFF, 875 strips of JPEG": lambda: _many_jpeg_strips(875),
    "TIFF, tiles of 4 Gpx": lambda: _tiff(
        bytes(250_000),
        _322=(65_536,),
        _323=(65_536,),
        _324=(300,),
        _325=(1000,),
        _259=(5,),
    ),
    "WEBP, 16,383 squared": lambda: films.saved(
        _flat("L", 12_000), "WEBP", lossless=True, method=0, quality=0
    ),
    "WEBP, 16 Mpx, lossless": lambda: films.saved(
        _flat("L", 4_050), "WEBP", lossless=True, method=0, quality=0
    ),
    "WEBP, 16 Mpx": lambda: films.saved(_flat("L", 4_050), "WEBP", method=0),
    "WEBP, a canvas of 256 Mpx": _wide_webp,
    "WEBP, 9,000 chunks": lambda: _many_webp_chunks(9_000),
    "WEBP, a million chunks": lambda: _many_webp_chunks(1_000_000),
    "WEBP, 1,000 frames": lambda: _many_frames("WEBP", 1_000, 32),
    "GIF, 50 Mpx": lambda: films.saved(_flat("L"), "GIF"),
    "GIF, 10,000 frames": lambda: _many_frames("GIF", 10_000, 16),
    "GIF, 5 million extensions": lambda: _gif_with(b"\x21\xfe\0" * 5_000_000),
    "GIF, 30 million blocks": lambda: _gif_blocks(1),
    "GIF, 60 MB of codes": lambda: _gif_blocks(255),
    "GIF, nothing but restarts": _restarts,
    "GIF, 13 million codes": _random_codes,
    "BMP, 50 Mpx": lambda: _bmp(WIDE, WIDE, 8, 0, bytes(7072 * WIDE)),
    "BMP, 50 Mpx of 1 bit": lambda: _bmp(WIDE, WIDE, 1, 0, bytes(884 * WIDE)),
    "BMP, a width of 2 Gpx": lambda: _bmp(1 << 31 - 1, 8, 8, 0, bytes(1000)),
    "BMP, 50 Mpx in no bytes": lambda: _bmp(WIDE, WIDE, 24, 0, b""),
    "BMP, 50 Mpx of runs": lambda: _bmp(
        WIDE, WIDE, 8, 1, (b"\xff\0" * 27 + b"\xba\0" + b"\0\0") * WIDE
    ),
    "BMP, 30 million runs": lambda: _bmp(5000, 6000, 8, 1, b"\1\7" * 30_000_000),
    "BMP, 900,000 runs": lambda: _bmp(
        1000, 899, 8, 1, (b"\1\7" * 1000 + b"\0\0") * 899
    ),
}


# --- mutants


def _bits(data: bytearray, rng: np.random.Generator) -> None:
    for at in rng.integers(0, len(data), int(rng.integers(1, 30))):
        data[at] ^= 1 << int(rng.integers(8))


def _field(data: bytearray, rng: np.random.Generator) -> None:
    """Sets a number of 1, 2 or 4 bytes near the front to an extreme."""
    size = int(rng.choice([1, 2, 4]))
    at = int(rng.integers(0, min(len(data), 1200) - size))
    value = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF]))
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")


def _span(data: bytearray, rng: np.random.Generator) -> slice:
    begin = int(rng.integers(0, len(data)))
    return slice(begin, begin + int(rng.integers(1, 2000)))


def _deleted(data: bytearray, rng: np.random.Generator) -> None:
    del data[_span(data, rng)]


def _doubled(data: bytearray, rng: np.random.Generator) -> None:
    span = _span(data, rng)
    data[span.stop : span.stop] = data[span] * int(rng.integers(1, 20))


def _inserted(data: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(0, len(data)))
    data[at:at] = rng.bytes(int(rng.integers(1, 500)))


def _cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(1, len(data))) :]


def _spliced(data: bytearray, rng: np.random.Generator) -> None:
    """Goes on with the end of another file, of any format."""
    kind = str(rng.choice(list(films.FORMATS)))
    variant = str(rng.choice(list(films.FORMATS[kind])))
    other = _small(kind, variant)
    data[int(rng.integers(1, len(data))) :] = other[int(rng.integers(0, len(other))) :]


MUTATIONS = (_bits, _field, _deleted, _doubled, _inserted, _cut, _spliced)


@functools.cache
def _all_variants() -> list[tuple[str, str]]:
    return [(kind, name) for kind, names in films.FORMATS.items() for name in names]


def mutants(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields names and bytes of changed films, of all formats and variants in turn."""
    rng = np.random.default_rng(seed)
    variants = _all_variants()
    for number in range(count):
        kind, variant = variants[number % len(variants)]
        size = _SMALL[int(rng.integers(len(_SMALL)))]
        data = bytearray(films.sound(kind, variant, 0, *size))
        done = [
            MUTATIONS[i] for i in rng.integers(0, len(MUTATIONS), rng.integers(1, 4))
        ]
        for mutation in done:
            if len(data) > 8:
                mutation(data, rng)
        names = " ".join(mutation.__name__.strip("_") for mutation in done)
        yield f"{kind} {variant}: {names}", bytes(data)
