"""Files of machine code, read into one `Image`: which format a file has, and who reads it.

ELF is read by pyelftools.
"""

from __future__ import annotations

from collections.abc import Callable

from .image import Image, ImageError, Section, Symbol, find_symbol

__all__ = ["Image", "ImageError", "Section", "Symbol", "find_symbol", "read_image"]


def read_image(data: bytes, name: str, member: str = "") -> Image:
    """The image in a file's bytes; `name` is for people. Raises ImageError with what is wrong with it, in words."""
    if data[:4] == b"\x7fELF":
        from .elf import read_elf

        return _guarded(read_elf, data, name)
    raise ImageError(f"{name} is not machine code in a format that is known: ELF")


def _guarded(read: Callable[[bytes, str], Image], data: bytes, name: str) -> Image:
    """A reader's image. Damaged files make the libraries raise whatever their parsers come across."""
    if len(data) < 64:
        raise ImageError(f"{name} is cut off: it has {len(data)} bytes")
    try:
        return read(data, name)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name} is damaged: {str(error) or type(error).__name__}") from None
