"""Variables that somebody else defines: what is read and set is theirs, wherever a linker puts them."""

from __future__ import annotations

import broken
import pytest

from trampoline_dsl.mutate import mutate
from trampoline_dsl.targets import default_targets
from trampoline_dsl.verify import verify

CASES = broken.ROOT / "tests" / "cases" / "variables.tramp"
TARGETS = [target.name for target in default_targets()]


@pytest.mark.parametrize("target", TARGETS)
def test_variables_hold_what_the_source_says(target: str) -> None:
    assert all(verdict.good for verdict in verify(broken.compiled(target, CASES)))


@pytest.mark.parametrize("target", ["linux/386", "linux/arm64", "linux/mips64", "linux/ppc64le", "linux/s390x"])
def test_no_small_mistake_with_a_variable_goes_unseen(target: str) -> None:
    [found] = mutate(broken.compiled(target, CASES), worlds=4)
    assert found.survivors == ()
    assert {"effect", "writes"} <= found.killed.keys()
