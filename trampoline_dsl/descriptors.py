"""Functions of ppc64 whose symbols are those of their descriptors, which say where the code is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from .elf_file import ElfFile, Entry
from .image import Symbol
from .target import Relocation
from .targets import find_target


def through_descriptors(
    file: ElfFile,
    symbols: Sequence[Symbol],
    relocations: Sequence[Relocation],
    addresses: Mapping[str, int],
) -> Iterator[Symbol]:
    """64-bit PowerPC ELF ABI Supplement, 3.2.4: a function's symbol is that of its descriptor, in .opd, whose first
    word is where the code is."""
    opd = next((section for section in file.sections if section.name == ".opd"), None)
    if opd is None:
        yield from (_of_go(file, symbol) for symbol in symbols)
        return
    filled = {
        r.offset: addresses[r.symbol] + r.addend
        for r in relocations
        if opd.address <= r.offset < opd.end and r.symbol in addresses
    }
    for symbol in symbols:
        at = symbol.address
        if at is None or not opd.address <= at <= opd.end - 8 or symbol.kind == "object" or symbol.name == ".opd":
            yield symbol
            continue
        word = opd.data[at - opd.address : at - opd.address + 8]
        code = filled.get(at, int.from_bytes(word, file.order))
        yield replace(symbol, kind="function", code=code)


def _of_go(file: ElfFile, symbol: Symbol) -> Symbol:
    """Go's linker makes no .opd: the descriptors of functions that C calls are among the code, and begin with the
    upper half of an address, which is no instruction."""
    conventions = find_target(file.targets[0]).conventions
    if symbol.kind != "function" or symbol.code is None or not conventions["c"].descriptors or file.relocatable:
        return symbol
    word = file.word(symbol.code)
    if word >> 32 or not any(s.executable and s.address <= word < s.end for s in file.sections):
        return symbol
    return replace(symbol, address=word, code=word, size=0)  # nothing in the file refers to the descriptor


def branches_to_functions(
    relocations: Sequence[Relocation],
    entries: Sequence[Entry],
    symbols: Sequence[Symbol],
    addresses: Mapping[str, int],
) -> list[Relocation]:
    """The same with branches to a place in .opd, the section of descriptors, as branches to the function that the
    descriptor there is of: so assemblers write calls of local functions."""
    labels = {entry.symbol.address: entry.label for entry in entries if entry.symbol.name != ".opd"}
    described = {s.address: labels[s.address] for s in symbols if s.code != s.address and s.kind == "function"}
    result = []
    for relocation in relocations:
        if relocation.type.startswith(("R_PPC64_REL24", "R_PPC64_REL14")) and relocation.symbol in addresses:
            place = addresses[relocation.symbol] + relocation.addend
            if place in described:
                relocation = replace(relocation, symbol=described[place], addend=0)
        result.append(relocation)
    return result
