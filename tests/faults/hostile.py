"""Hostile zip archives, JSON and HTTP answers, made by a seeded generator: for the tests of faults of kind d."""

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LIES = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
LIES64 = (*LIES, 1 << 32, 1 << 40, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
RECORDS = {b"PK\1\2": 46, b"PK\3\4": 30, b"PK\5\6": 22, b"PK\6\6": 56, b"PK\6\7": 20}


def damaged_zip(data: bytes, chance: random.Random) -> bytes:
    """Return an archive with one to four damages: lies in its records, flips, cuts, bytes before or after it."""
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(_DAMAGES)(bytearray(data), chance)
    return data


def with_zip64(data: bytes, chance: random.Random) -> bytes:
    """Return an archive whose members state their sizes and offsets in zip64 extra fields, some of which lie."""
    at = data.rfind(b"PK\5\6")
    *_, count, _, start, _ = struct.unpack_from("<4sHHHHIIH", data, at)
    directory, position = b"", start
    for _ in range(count):
        names = struct.unpack_from("<HHH", data, position + 28)
        head = bytearray(data[position : position + 46])
        name = data[position + 46 : position + 46 + names[0]]
        packed, whole, offset = (struct.unpack_from("<I", head, place)[0] for place in (20, 24, 42))
        values = [
            chance.choice((value, *LIES64)) if chance.random() < 0.3 else value for value in (whole, packed, offset)
        ]
        words = values[: chance.choice((0, 1, 2, 3, 3, 3))]
        stated = chance.choice((8 * len(words), 8 * len(words), 3, 24, 0xFFF0))
        extra = struct.pack("<HH", 1, stated) + struct.pack(f"<{len(words)}Q", *words)
        struct.pack_into("<II", head, 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<HHH", head, 28, len(name), len(extra), 0)
        struct.pack_into("<I", head, 42, 0xFFFFFFFF)
        directory += head + name + extra
        position += 46 + sum(names)
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, chance.choice((start + len(directory), *LIES64)), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:start] + directory + end64 + locator + end


def _lie(data: bytearray, chance: random.Random) -> bytes:
    """Put an extreme number into a field of one of the records."""
    signature = chance.choice(list(RECORDS))
    places = [at for at in range(len(data) - 60) if data.startswith(signature, at)]
    if places:
        code, choices = chance.choice((("<H", LIES[:4]), ("<I", LIES), ("<Q", LIES64)))
        field = chance.choice(places) + chance.randrange(4, RECORDS[signature])
        if field + struct.calcsize(code) <= len(data):
            struct.pack_into(code, data, field, chance.choice(choices))
    return bytes(data)


def _flip(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(8):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _cut(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(len(data) + 1)])


def _swap_name(data: bytearray, chance: random.Random) -> bytes:
    names = [b"../../etc/x", b"\xff\xfe\xfd", b"C:\\x.jpg", b"a\\b\\c.jpg", b"\0" * 9, b"//////"]
    at = data.find(b".jpg", chance.randrange(len(data) + 1))
    name = chance.choice(names)
    if at > 40:
        data[at - len(name) : at] = name
    return bytes(data)


_DAMAGES: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    _lie, _lie, _lie, _lie, _flip, _cut, _swap_name,
    lambda data, chance: chance.randbytes(100) + data,
    lambda data, chance: bytes(data) + chance.randbytes(chance.randrange(70_000)),
    lambda data, chance: bytes(data[:-22]) + bytes(data[-22:]) * 2,
)  # fmt: skip

NUMBERS = (b"0", b"1", b"-1", b"\xb2", b"9" * 400, b"1e3", b"0x10", b"", b"18446744073709551616", b"7 7", b"\xff")
WORDS = (b"", b"bytes", b"\xff\xfe", b'"a"', b'W/"\xe9"', b"x" * 3000, b"gzip", b"http://[::1", b"/\xe9", b"\x01")
STATUS = (
    b"200",
    b"206",
    b"206",
    b"206",
    b"301",
    b"302",
    b"304",
    b"401",
    b"404",
    b"416",
    b"429",
    b"503",
    b"999",
    b"2x6",
)
TARGETS = (
    b"http://[::1", b"http://" + b"a" * 300 + b"/", b"http://127.0.0.1:99999/", b"file:///etc/passwd", b"ftp://x/",
    b"//",
    b"http://a..b/", b"http://user:secret@127.0.0.1:1/?sig=secret", b"?", b"\xff\xfe", b"http://\xe9\xe9.invalid/",
    b"http://xn--a/", b"", b"javascript:1", b"http://127.0.0.1:1/",
)  # fmt: skip


def answer(request: bytes, whole: bytes, chance: random.Random) -> bytes:
    """Return a hostile answer to a request for a part of a file, or for all of it."""
    first, last = 0, len(whole) - 1
    line = next((line for line in request.split(b"\r\n") if line.lower().startswith(b"range: bytes=")), b"")
    with suppress(ValueError):
        low, _, high = line.partition(b"=")[2].partition(b"-")
        first = int(low) if low else max(0, len(whole) - int(high))
        last = min(last, int(high)) if low and high else last
    body = whole[first : last + 1]
    status = chance.choice(STATUS)
    total = chance.choice((b"%d" % len(whole), b"%d" % len(whole), *NUMBERS))
    stated = chance.choice((b"bytes %d-%d/%s" % (first, last, total), b"bytes %d-%d/%s" % (first, last, total), *WORDS))
    headers = [b"Content-Range: " + stated]
    length = b"%d" % len(body) if chance.random() < 0.7 else chance.choice(NUMBERS)
    headers += [b"Content-Length: " + length] if chance.random() < 0.9 else []
    headers += [b"ETag: " + chance.choice((b'"1"', b'"1"', *WORDS))]
    headers += [b"Location: " + chance.choice(TARGETS)] if status.startswith(b"3") else []
    headers += [b"Retry-After: " + chance.choice((*NUMBERS, *WORDS))] if chance.random() < 0.2 else []
    headers += [b"Content-Type: " + chance.choice((b"application/zip", b"text/html", *WORDS))]
    headers += (
        [b"Content-Encoding: " + chance.choice((b"gzip", b"br", b"deflate", *WORDS))] if chance.random() < 0.2 else []
    )
    headers += [chance.choice(WORDS)] if chance.random() < 0.05 else []
    if chance.random() < 0.2:
        body = chance.choice((body[:5], body * 2, chance.randbytes(len(body)), b"\x1f\x8b" + body, b""))
    return b"HTTP/1.1 " + status + b" OK\r\n" + b"\r\n".join(headers) + b"\r\nConnection: close\r\n\r\n" + body


@contextmanager
def hostile_server(answering: Callable[[bytes], Iterator[bytes]]) -> Iterator[str]:
    """Run a server on a free port that sends to each connection what `answering(request)` yields; yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request and (part := connection.recv(65_536)):
                request += part
            for part in answering(request):
                connection.sendall(part)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
