"""Files of machine code, read into one `Image`: which format a file has, and who reads it.

The libraries that read them are loaded when they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from .go_table import functions as go_functions
from .image import FIRST_ADDRESS, Image, ImageError, Section, Symbol, find_symbol
from .target import Target
from .targets import find_target

__all__ = [
    "Image",
    "ImageError",
    "Section",
    "Symbol",
    "find_symbol",
    "members",
    "read_bytes",
    "read_file",
    "read_image",
    "read_raw",
]

MOST_OF_A_FILE = 1 << 29  # bytes
_ARCHIVE, _THIN_ARCHIVE = b"!<arch>\n", b"!<thin>\n"
_MACHO = (0xFEEDFACE, 0xFEEDFACF, 0xCEFAEDFE, 0xCFFAEDFE)
_FAT = (0xCAFEBABE, 0xCAFEBABF)
_COFF_MACHINES = (0x14C, 0x8664, 0x1C0, 0x1C4, 0xAA64)
_GO_ARCHIVE = b"__.PKGDEF"


def read_file(path: Path, member: str = "") -> Image:
    """The image in a file. `member`: the name of one in an archive, or the machine in a Mach-O file for several. Raises
    ImageError with what is wrong with it, in words."""
    return _read(read_bytes(path), str(path), member, path.parent)


def read_bytes(path: Path) -> bytes:
    """All of a file. Raises ImageError where it cannot be read, or has more than MOST_OF_A_FILE."""
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
            if len(data) == 1 << 20:  # room for the limit itself is costly
                data += file.read(MOST_OF_A_FILE + 1 - len(data))
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ImageError(f"{str(path)!r} cannot be read: {error}") from None
    if len(data) > MOST_OF_A_FILE:
        raise ImageError(f"{path} is larger than {MOST_OF_A_FILE >> 20} MiB, the most that is read")
    return data


def read_image(data: bytes, name: str, member: str = "") -> Image:
    """The image in a file's bytes; `name` is for people. As `read_file`, but for thin archives."""
    return _read(data, name, member, None)


def read_raw(data: bytes, name: str, target: Target, base: int = FIRST_ADDRESS) -> Image:
    """Bytes that are nothing but code, as they lie at `base`: one function, with the file's name for a symbol."""
    if not data:
        raise ImageError(f"{name} is empty")
    if not 0 <= base <= (1 << 8 * target.architecture.word) - len(data):
        raise ImageError(f"{name} does not fit at {base:#x}: {target.name} has {8 * target.architecture.word} bits")
    symbol = Symbol(Path(name).stem, base, len(data), "function", False, base)
    section = Section("code", base, data, True, False)
    return Image(name, "raw", (target.name,), False, False, (section,), (symbol,), (), {"": 0, symbol.name: base})


def members(data: bytes, name: str) -> dict[str, bytes | None]:
    """The files in an archive, those without bytes of their own (of a thin archive) as None. Where several have one
    name, the first of them. Raises ImageError where it is damaged."""
    found: dict[str, bytes | None] = {}
    for member, content in _members(data, name):
        found.setdefault(member, content)
    return found


def _read(data: bytes, name: str, member: str, folder: Path | None) -> Image:
    if data[:8] in (_ARCHIVE, _THIN_ARCHIVE):
        return _of_archive(data, name, member, folder)
    if int.from_bytes(data[:4], "big") in (*_FAT, *_MACHO):
        return _guarded(_macho(member), data, name)
    if member:
        raise ImageError(f"{name} is no archive: it has no member `{member}`")
    if data[:4] == b"\x7fELF":
        return _guarded(_elf, data, name)
    if data[:2] == b"MZ":
        return _guarded(_pe, data, name)
    if data[:4] == b"\0\0\xff\xff":
        raise ImageError(f"{name} is a COFF object with the header for more than 65,279 sections, or of imports alone")
    if int.from_bytes(data[:2], "little") in _COFF_MACHINES:
        return _guarded(_coff, data, name)
    if data[:2] == b"go" or data[:8] == b"\0go120ld":
        raise ImageError(
            f"{name} is an object of Go's tools, which their linker alone understands", "audit what it has linked"
        )
    raise ImageError(
        f"{name} is not machine code in a format that is known: ELF, COFF, PE, Mach-O, or an archive of those",
        "for bytes that are nothing but code, say the target and where they lie: `--target`, `--base`",
    )


def _elf(data: bytes, name: str) -> Image:
    from .elf import read_elf

    return read_elf(data, name)


def _coff(data: bytes, name: str) -> Image:
    from .other_formats import read_coff

    return read_coff(data, name)


def _pe(data: bytes, name: str) -> Image:
    from .other_formats import read_pe

    return read_pe(data, name)


def _macho(member: str) -> Callable[[bytes, str], Image]:
    def read(data: bytes, name: str) -> Image:
        from .other_formats import read_macho

        return read_macho(data, name, member)

    return read


def _guarded(read: Callable[[bytes, str], Image], data: bytes, name: str) -> Image:
    """A reader's image. Damaged files make the libraries raise whatever their parsers come across."""
    if len(data) < 20:
        raise ImageError(f"{name} is cut off: it has {len(data)} bytes")
    try:
        return _with_names_of_go(read(data, name))
    except ImageError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise ImageError(f"{name} is damaged: {said or type(error).__name__}") from None


def _with_names_of_go(image: Image) -> Image:
    """The same with the functions that Go's own table names, where no symbol table does."""
    if image.relocatable or any(symbol.kind == "function" and not symbol.mode for symbol in image.symbols):
        return image
    architecture = find_target(image.targets[0]).architecture
    found = go_functions(image.sections, architecture.word, architecture.order)
    addresses = {**{symbol.name: symbol.address for symbol in found if symbol.address is not None}, **image.addresses}
    return replace(image, symbols=(*image.symbols, *found), addresses=addresses) if found else image


# ------------------------------------------------------------------------------------------------------------- archives


def _of_archive(data: bytes, name: str, member: str, folder: Path | None) -> Image:
    found = members(data, name)
    if _GO_ARCHIVE.decode() in found:
        raise ImageError(
            f"{name} is a package of Go's tools, which their linker alone understands", "audit what it has linked"
        )
    if not member and len(found) == 1:
        [member] = found
    alike = [known for known in found if Path(known).name == member]  # thin archives have paths for names
    if member not in found and len(alike) == 1:
        [member] = alike
    if member not in found:
        said = f"has no member `{member}`" if member else "is an archive: say which of its members by `--member`"
        shown = list(found)[:12]
        more = f", and {len(found) - len(shown)} others" if len(found) > len(shown) else ""
        raise ImageError(f"{name} {said}", f"its members: {', '.join(shown)}{more}" if shown else "it is empty")
    content = found[member]
    if content is None:
        if folder is None:
            raise ImageError(f"{member} is in a file of its own: {name} is a thin archive")
        return read_file(folder / member)
    return _read(content, f"{name}({member})", "", None)


def _members(data: bytes, name: str) -> Iterator[tuple[str, bytes | None]]:
    """ar(5), in its variants: names of more than 15 characters are in a member of their own (GNU, PE) or before the
    contents (BSD)."""
    thin = data[:8] == _THIN_ARCHIVE
    long_names = b""
    at = 8
    while at + 60 <= len(data):
        header = data[at : at + 60]
        size_text = header[48:58].strip()
        if header[58:] != b"`\n" or not size_text.isdigit():
            raise ImageError(f"{name} is damaged: there is no member's header at {at:#x}")
        size, raw = int(size_text), header[:16].rstrip()
        start = at + 60
        special = raw in (b"/", b"//", b"/SYM64/", b"/<ECSYMBOLS>/", b"/<HYBRIDMAP>/")
        inside = special or not thin
        if inside and start + size > len(data):
            raise ImageError(f"{name} is cut off: its member at {at:#x} lies outside of the file")
        content = data[start : start + size] if inside else None
        at = start + (size + size % 2 if inside else 0)
        if raw == b"//":
            long_names = content or b""
        if special:
            continue
        if re.fullmatch(rb"/\d+", raw):
            long_name = re.match(rb"[^\n\0]*", long_names[int(raw[1:]) :])
            member = long_name[0].removesuffix(b"/") if long_name else b""
        elif re.fullmatch(rb"#1/\d+", raw) and content is not None:
            length = int(raw[3:])
            member, content = content[:length].rstrip(b"\0"), content[length:]
        else:
            member = raw.removesuffix(b"/")
        if member.startswith(b"__.SYMDEF"):
            continue
        yield member.decode("utf-8", "replace"), content
