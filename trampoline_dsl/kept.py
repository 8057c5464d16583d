"""Where files are kept from one process to the next, to save time and nothing else: all works without them."""

from __future__ import annotations

import marshal
import os
import sys
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

_DIGEST = sha256().digest_size


def kept_file(name: str, content: str) -> Path | None:
    """The file for what this Python made of `content`, whether it exists or not.

    It may be a pickle, which can run any code; so its folder is one that nobody but the user can write to. None where
    that cannot be had.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trampoline"
        folder.mkdir(0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        return None
    digest = sha256(content.encode()).hexdigest()[:16]
    return folder / f"{name}-{digest}.{sys.implementation.cache_tag}"


def read_table(file: Path) -> dict[Any, Any]:
    """What `write_table` has written; empty where the file is missing or spoilt."""
    try:
        data = file.read_bytes()
    except OSError:
        return {}
    if sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        return {}
    table = marshal.loads(data[_DIGEST:])
    return table if isinstance(table, dict) else {}


def write_table(file: Path, table: dict[Any, Any]) -> None:
    """Keep a table of strings, numbers, bytes and tuples of them, if that can be done. Another process that reads or
    writes the file meanwhile sees the whole of one table."""
    data = marshal.dumps(table)
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent)
    except OSError:
        return
    try:
        with open(descriptor, "wb") as stream:
            stream.write(sha256(data).digest() + data)
        os.replace(name, file)
    except OSError:
        with suppress(OSError):
            os.unlink(name)
