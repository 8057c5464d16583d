"""Where files are kept from one process to the next, to save time and nothing else: all works without them."""

from __future__ import annotations

import os
import sys
from hashlib import sha256
from pathlib import Path


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
