"""Who may import what. The order of the modules is read from docs/architecture.md, so that it cannot go stale.

A module imports only modules that stand before it there. One module owns each outside library. Nobody but the registry
knows that there are architectures, and no register is named outside of them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from trampoline_dsl.targets import all_targets

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = {path.stem: path for path in sorted((ROOT / "trampoline_dsl").glob("*.py"))}
ARCHES = {path.stem: path for path in sorted((ROOT / "arches").glob("*.py"))}
SPELLINGS = {path.stem: path for path in sorted((ROOT / "arches" / "plan9").glob("*.py"))}

UNWINDING = {path.stem: path for path in sorted((ROOT / "arches" / "unwinding").glob("*.py"))}

OWNERS = {
    "lark": {"parse"},
    "keystone": {"assemble"},  # assemble_child runs assemble's own engine in another process
    "capstone": {"disassemble"},
    "unicorn": {"emulate"},
    "rich": {"render"},
    "elftools.elf": {"elf_file"},
    "elftools.dwarf": {"dwarf"},
    "lief": {"other_formats"},
    "pytest": {"pytest_plugin"},
}
BASES = {  # what families share
    "amd64": {"x86", "go"},
    "i386": {"x86", "go"},
    **{family: {"go"} for family in ("arm", "arm64", "mips", "ppc64", "s390x")},
}
REGISTRY = "targets"
# In Unicorn's words: cpus says where Unicorn keeps each register.
SPEAKS_UNICORN = {"cpus"}
WORDS_OF_THE_LANGUAGE = {"sp"}  # which is also what most machines call theirs


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path, *, checking: bool = False) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, with lines; those that only a type checker sees if `checking` too."""
    hidden = set()
    if not checking:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                hidden |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree(path)):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module.strip("."):
                yield module, node.lineno
            else:
                for alias in node.names:
                    yield module + alias.name, node.lineno


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules of this package, by their bare name."""
    for name, line in imports(path):
        for prefix in (".", "trampoline_dsl."):
            if name.startswith(prefix):
                yield name.removeprefix(prefix).split(".")[0], line


def documented_order() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.split("## The modules, in the order of their imports", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_the_document_lists_every_module_once() -> None:
    assert sorted(documented_order()) == sorted(set(PACKAGE) - {"__init__"})


@pytest.mark.parametrize("module", sorted(set(PACKAGE) - {"__init__"}))
def test_imports_point_one_way(module: str) -> None:
    order = documented_order()
    before = set(order[: order.index(module)])
    wrong = [f"{module}.py:{line} imports {name}" for name, line in own_imports(PACKAGE[module]) if name not in before]
    assert not wrong, f"{wrong}; before it in docs/architecture.md: {' '.join(sorted(before))}"


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_one_module_owns_each_outside_library(library: str) -> None:
    users = {
        module
        for module, path in {**PACKAGE, **{f"arches/{name}": path for name, path in ARCHES.items()}}.items()
        for name, _ in imports(path, checking=True)
        if f"{name}.".startswith(f"{library}.")
    }
    assert users <= OWNERS[library]


@pytest.mark.parametrize(
    "path", [*PACKAGE.values(), *ARCHES.values()], ids=lambda path: f"{path.parent.name}.{path.stem}"
)
def test_nothing_else_from_outside_is_imported(path: Path) -> None:
    for name, line in imports(path, checking=True):
        top = name.split(".")[0]
        owned = any(f"{name}.".startswith(f"{library}.") for library in OWNERS)
        known = not top or owned or top in sys.stdlib_module_names or top == "trampoline_dsl"
        assert known, f"{path.name}:{line} imports {name}"


@pytest.mark.parametrize("module", sorted(set(ARCHES) - {"__init__"}))
def test_an_architecture_knows_the_records_and_its_family_alone(module: str) -> None:
    for name, line in imports(ARCHES[module], checking=True):
        top = name.split(".")[0]
        if name.startswith("."):
            families = (module, *BASES.get(module, ()))
            known = {
                *families[1:],
                *(f"{folder}.{family}" for folder in ("plan9", "unwinding", "baselines") for family in families),
            }
            assert name[1:] in known, f"{module}.py:{line} imports {name}"
        else:
            assert top in sys.stdlib_module_names or name == "trampoline_dsl.target", f"{module}.py:{line}: {name}"


@pytest.mark.parametrize("module", sorted(SPELLINGS))
def test_a_spelling_for_gos_assembler_knows_the_records_alone(module: str) -> None:
    for name, line in imports(SPELLINGS[module], checking=True):
        own = name.lstrip(".").split(".")[0] in (
            "",
            "Spelling",
            "Symbol",
            "Operands",
            "added",
            "offset",
            "operands",
            "words",
        )
        known = own or name.split(".")[0] in sys.stdlib_module_names or name == "trampoline_dsl.target"
        assert known, f"{module}.py:{line}: {name}"


@pytest.mark.parametrize("module", sorted(UNWINDING))
def test_what_is_said_of_frames_knows_the_records_alone(module: str) -> None:
    for name, line in imports(UNWINDING[module], checking=True):
        own = name.lstrip(".").split(".")[0] in ("", "ByText", "Form", "kind", "number")
        known = own or name.split(".")[0] in sys.stdlib_module_names or name == "trampoline_dsl.target"
        assert known, f"{module}.py:{line}: {name}"


@pytest.mark.parametrize("module", sorted(PACKAGE))
def test_nobody_imports_an_architecture_by_name(module: str) -> None:
    assert not [name for name, _ in imports(PACKAGE[module], checking=True) if "arches" in name]
    mentions = [
        node.lineno
        for node in ast.walk(tree(PACKAGE[module]))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "trampoline_dsl.arches" in node.value
    ]
    assert not mentions or module == REGISTRY


@pytest.mark.parametrize("module", sorted(set(PACKAGE) - SPEAKS_UNICORN))
def test_no_register_is_named_outside_the_architectures(module: str) -> None:
    names = set()
    for target in all_targets().values():
        for name, register in target.architecture.registers.items():
            names |= {name, register.name, register.gnu, *register.aliases}
    wrong = [
        f"{module}.py:{node.lineno}: {node.value!r}"
        for node in ast.walk(tree(PACKAGE[module]))
        if isinstance(node, ast.Constant) and node.value in names - WORDS_OF_THE_LANGUAGE
    ]
    assert not wrong
