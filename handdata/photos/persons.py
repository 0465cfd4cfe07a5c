"""Pseudonyms of persons in the column `subject`: a guessed name cannot be compared with them.

They depend on a random salt of the build, which is stored in its manifest and in BUILD/source/salt, and never
published. It is not derived from the recipe's seed, since recipes are public.
"""

import hashlib
import secrets
from pathlib import Path

from handdata.files import write_text
from handdata.rows.decisions import Decisions
from handdata.rows.shards import read_table

SALT = b"hand1000:salt"  # metadata of the manifest's file


def salt_of(build: Path, decisions: Decisions) -> str:
    """Return the salt of a build, and store a new one in a new build.

    A build whose manifest or decisions have persons without a salt keeps these names: decisions are about them.
    """
    path, file = build / "manifest.parquet", build / "source" / "salt"
    table = read_table(path, ["image_id"])
    stored: bytes | None = None if table is None else (table.schema.metadata or {}).get(SALT)
    if stored is not None:
        return stored.decode()
    if file.is_file():
        return file.read_text("utf-8").strip()
    earlier = path.exists() or decisions.dropped_subjects or decisions.rejected_subjects
    salt = "" if earlier else secrets.token_hex(16)
    write_text(file, f"{salt}\n")
    return salt


def pseudonym(group: str, salt: str) -> str:
    """Return the published name of a group of photographs: 16 hex digits; the group itself without a salt."""
    return hashlib.sha256(f"{salt}\0{group}".encode()).hexdigest()[:16] if salt else group
