"""PNG files without their texts, which Pillow decompresses and limits: a long prompt makes a valid image unreadable."""

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 1 << 20  # bytes of a text that is kept, Pillow's limit; it may be a record or XMP with an orientation
MAX_PROFILE = 16 << 20  # bytes; profiles with tables for print have 0.5 to 4 million

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def simplified(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG without long texts and without its colour profile, and that profile.

    A profile that cannot be decompressed is returned as it is. All other chunks keep their order; from the first
    damaged one on, bytes are unchanged.
    """
    kept, profile, position, budget = [data[:8]], None, 8, 16 * MAX_TEXT
    while position + 12 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        body, end = data[position + 8 : position + 8 + length], position + 12 + length
        if end > len(data):
            break
        if kind == b"iCCP":
            profile = profile or _decompressed(body.partition(b"\0")[2][1:], MAX_PROFILE) or body
        elif kind in _TEXTS:
            text = body if kind == b"tEXt" else _text(kind, body)
            if text is not None and len(text) <= min(MAX_TEXT, budget):
                budget -= len(text)
                kept.append(data[position:end])
        else:
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]]), profile


def bit_depth(data: bytes) -> int:
    """Return the bits of one channel of a pixel."""
    return data[24] if len(data) > 24 else 0


def _text(kind: bytes, body: bytes) -> bytes | None:
    """Return the text of a zTXt or iTXt chunk, None if it is too long or damaged."""
    _, _, rest = body.partition(b"\0")
    if kind == b"zTXt":
        return _decompressed(rest[1:], MAX_TEXT)
    packed, (_, _, text) = rest[:1] == b"\1", rest[2:].partition(b"\0")  # language, then the translated keyword
    text = text.partition(b"\0")[2]
    return _decompressed(text, MAX_TEXT) if packed else text


def _decompressed(data: bytes, limit: int) -> bytes | None:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, limit)
    except zlib.error:
        return None
    return None if stream.unconsumed_tail else plain
