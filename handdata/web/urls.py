"""Addresses: their public form, which is printed and stored, and the check that they can be requested at all.

A URL may carry a password (`user:password@host`) or a signature (`?X-Amz-Signature=...`). Only the request sees these:
whatever is printed, stored or hashed goes through `public_url`, `identity_url` or `without_secrets`.
"""

import re
from urllib.parse import parse_qsl, urlsplit

from handdata.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(.*)", re.DOTALL)
_PORT = re.compile(r"[^:]*(:[0-9]*)?|.*\](:[0-9]*)?")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"`<>|]+")
_CLOSING = ".,;:!)]}"  # after a URL in a sentence, these belong to the sentence
# Parameters that grant access or change with every signature: they do not identify the file. By prefix, or by a word.
_SIGNED = ("x-amz-", "x-goog-", "x-oss-", "x-ms-", "x-obs-", "x-cos-")
_PASSES = frozenset(
    "sig sign signature token accesstoken key apikey accesskey auth authorization authkey secret cred credential"
    " credentials password passwd passwort pass pw pwd policy expire expires expiry exp hmac session sessionid sid"
    " ticket jwt nonce timestamp ts user username login googleaccessid"
    " se sp sv st sr sip spr ske skt sks skv skoid sktid sdd".split()  # the last line: Azure's
)
_WORD = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def is_remote(place: str) -> bool:
    """Return whether a place needs the network."""
    return place.startswith(("http://", "https://", "hf://"))


def public_url(place: str) -> str:
    """Return a URL without user, password, query and fragment; anything else, such as a path, unchanged."""
    match = _SCHEME.fullmatch(place)
    if not match:
        return place
    scheme, rest = match.groups()
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in host and (scheme.lower() != "hf://" or ":" in host):
        rest = rest[host.rfind("@") + 1 :]
    elif "@" in rest and not _PORT.fullmatch(host):  # a password with `/`, `?` or `#`
        rest = rest[rest.rfind("@") + 1 :]
    return scheme + re.split(r"[?#]", rest, maxsplit=1)[0]


def identity_url(place: str) -> str:
    """Return a text that is equal for two URLs of one file: the public form and the parameters without signatures.

    It is hashed, never shown: a query may name the file (`?id=7`), while a renewed signature means the same file.
    """
    public, query = public_url(place), place.partition("?")[2].partition("#")[0]
    if public == place or not query:
        return public
    pairs = sorted(pair for pair in parse_qsl(query, keep_blank_values=True) if not _passes(pair[0]))
    return "\n".join([public, *(f"{name}={value}" for name, value in pairs)])


def public_names(places: list[str]) -> list[str]:
    """Return the public forms of places, in their order; equal ones are numbered (`https://host/file#2`)."""
    named: dict[str, str] = {}
    for place in places:
        number, name = 1, public_url(place)
        while place not in named and name in named.values():
            number += 1
            name = f"{public_url(place)}#{number}"
        named.setdefault(place, name)
    return [named[place] for place in places]


def without_secrets(text: str) -> str:
    """Return a text in which every URL has its public form."""

    def replaced(match: re.Match[str]) -> str:
        found = match.group()
        url = found.rstrip(_CLOSING)
        return public_url(url) + found[len(url) :]

    return _IN_TEXT.sub(replaced, text)


def require_url(place: str, where: str = "") -> None:
    """Raise `UserError` for an address that no request can be sent to; `where`, such as an option, begins the message.

    Only http:// and https:// are checked here.
    """
    fault = _fault(place) if place.startswith(("http://", "https://")) else None
    if fault:
        shown = "".join(c if c.isprintable() else "?" for c in public_url(place))
        shown = shown if len(shown) <= 120 else f"{shown[:120]}..."
        raise UserError(f"{where} {shown} is not a valid URL ({fault}): correct it".strip())


def _passes(name: str) -> bool:
    """Return whether a parameter of this name is a password, a signature or a part of one."""
    words = {word.lower() for word in _WORD.findall(name)} | {name.lower()}
    return name.lower().startswith(_SIGNED) or bool(words & _PASSES)


def _fault(url: str) -> str | None:
    if any(c <= " " or c == "\x7f" for c in url):
        return "it contains a space, which is written %20, or a control character"
    try:
        url.encode("utf-8")
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except UnicodeEncodeError:
        return "it contains characters that are not valid Unicode"
    except ValueError as error:
        return "its port is not a number from 1 to 65535" if "ort" in str(error) else "its host is not valid"
    if port == 0:
        return "its port is not a number from 1 to 65535"
    if not host:
        return "it has no host"
    return None if ":" in host or _is_host(host) else "its host is not valid"


def _is_host(host: str) -> bool:
    """Return whether a name has labels of 1 to 63 characters and at most 253 in all (RFC 1035, section 2.3.4)."""
    try:
        ascii_host = host.encode("idna").decode()
    except UnicodeError:
        return False
    labels = ascii_host.removesuffix(".").split(".")
    return len(ascii_host) <= 253 and all(1 <= len(label) <= 63 for label in labels) and "%" not in host
