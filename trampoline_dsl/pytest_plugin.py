"""The pytest plugin: `.tramp` files become test items, `FILE::TRAMPOLINE::TARGET::OBLIGATION`.

It is loaded with every pytest of the environment, so it must not surprise anybody: a file is collected when the command
line names it, or everywhere once `--trampoline` or `trampoline = true` in the configuration asks for it. Until then
nothing of the compiler is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .emulate import Machine
    from .pipeline import Artifact, Compiled
    from .target import Target
    from .testing import Judged
    from .verify import Verdict

    _Verdicts = dict[tuple[Path, str, str], Verdict]

_verdicts_key: pytest.StashKey[_Verdicts] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trampoline", "trampolines in .tramp files")
    group.addoption("--trampoline", action="store_true", help="collect every .tramp file, not only those named here")
    group.addoption(
        "--trampoline-target",
        action="append",
        metavar="T",
        help="linux/s390x, ...; may be repeated (default: all)",
    )
    group.addoption(
        "--trampoline-include",
        action="append",
        default=[],
        metavar="DIR",
        help="take headers of the same name from there",
    )
    group.addoption("--trampoline-seed", type=_number, default=1, metavar="N", help="repeat a run (default: 1)")
    group.addoption(
        "--trampoline-runs", type=_runs, default=16, metavar="N", help="executions of each check (default: 16)"
    )
    parser.addini("trampoline", "collect every .tramp file below the test paths", type="bool", default=False)


def _number(text: str) -> int:
    return int(text, 0)


def _runs(text: str) -> int:
    value = int(text, 0)
    if not 1 <= value <= 1_000_000:
        raise ValueError(text)
    return value


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_verdicts_key] = {}
    if config.getoption("trampoline_target"):
        _chosen_targets(config)  # a misspelt target is found before anything is collected


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".tramp":
        return None
    wanted = parent.config.getoption("trampoline") or parent.config.getini("trampoline")
    if wanted or parent.session.isinitpath(file_path):
        collector: pytest.Collector = TrampolineFile.from_parent(parent, path=file_path)
        return collector
    return None


def _chosen_targets(config: pytest.Config) -> tuple[Target, ...]:
    from .diagnostics import InputError
    from .targets import default_targets, find_target

    names: list[str] = config.getoption("trampoline_target") or []
    try:
        return tuple(dict.fromkeys(find_target(name) for name in names)) or default_targets()
    except InputError as error:
        raise pytest.UsageError(str(error)) from None


class TrampolineFile(pytest.File):
    """A `.tramp` file, compiled for every target when it is collected: wrong input is an error of the collection."""

    def collect(self) -> Iterable[pytest.Collector]:
        from .cli import declares_trampoline
        from .diagnostics import InputError, read_source
        from .pipeline import compile_source

        targets = _chosen_targets(self.config)
        try:
            source = read_source(self._shown_path())
            if not declares_trampoline(source) and not self.session.isinitpath(self.path):
                return  # it is there to be imported
            include = [Path(name) for name in self.config.getoption("trampoline_include")]
            compiled = compile_source(source, targets, include)
            for results in compiled.values():
                for artifact in results.own:
                    _ = artifact.code  # machine text of the user's may turn out not to assemble
        except InputError as error:
            raise self.CollectError(str(error)) from None
        for name in dict.fromkeys(name for results in compiled.values() for name in results.program.own):
            yield TrampolineCollector.from_parent(self, name=name, compiled=compiled)

    def _shown_path(self) -> Path:
        """As the command would be given it, so that places in messages can be followed from where pytest runs."""
        here = self.config.invocation_params.dir
        return self.path.relative_to(here) if self.path.is_relative_to(here) and Path.cwd() == here else self.path


class TrampolineCollector(pytest.Collector):
    """One trampoline of a file."""

    def __init__(self, *, compiled: dict[str, Compiled], **rest: Any) -> None:
        super().__init__(**rest)
        self.compiled = compiled

    def collect(self) -> Iterable[pytest.Collector]:
        for name, results in self.compiled.items():
            if self.name not in results.program.own:
                continue  # it is for other targets
            yield TargetCollector.from_parent(self, name=name, compiled=results, artifact=results[self.name])


class TargetCollector(pytest.Collector):
    """One trampoline on one target."""

    def __init__(self, *, compiled: Compiled, artifact: Artifact, **rest: Any) -> None:
        super().__init__(**rest)
        self.compiled = compiled
        self.artifact = artifact

    def collect(self) -> Iterable[pytest.Item]:
        from .violation import OBLIGATIONS

        for name in OBLIGATIONS:
            yield ObligationItem.from_parent(self, name=name, judged=self)

    def verdict(self) -> Verdict:
        """The verdict, from one set of runs for all its obligations."""
        from .verify import verify

        verdicts = self.config.stash[_verdicts_key]
        key = (self.path, self.artifact.target.name, self.artifact.name)
        if key not in verdicts:
            seed, runs = self.config.getoption("trampoline_seed"), self.config.getoption("trampoline_runs")
            (verdicts[key],) = verify(self.compiled, seed=seed, runs=runs, only=[self.artifact.name])
        return verdicts[key]


class _NotHeld(Exception):
    """An obligation was violated, or nothing is known of it."""


class ObligationItem(pytest.Item):
    """One obligation of one trampoline on one target."""

    def __init__(self, *, judged: TargetCollector, **rest: Any) -> None:
        super().__init__(**rest)
        self.judged = judged

    def runtest(self) -> None:
        from .testing import failure_lines

        verdict = self.judged.verdict()
        finding = verdict.obligations[self.name]
        if finding.state == "not applicable":
            pytest.skip(finding.reason)  # there is nothing to hold, and the reason is told with it
        lines = failure_lines(verdict, self.name)
        if lines:
            seed = f"  = seed {self.config.getoption('trampoline_seed')}, {verdict.runs} runs"
            raise _NotHeld("\n".join([*lines, seed]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, _NotHeld):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        artifact = self.judged.artifact
        title = f"{artifact.name} on {artifact.target.name}: {self.name}"
        return self.path, artifact.function.span.line - 1, title


# ------------------------------------------------------------------------------------------------------------ fixtures


@pytest.fixture
def trampoline_machine() -> Callable[[str], Machine]:
    """A factory of emulators: `trampoline_machine("linux/s390x")`."""
    from .testing import machine

    return machine


@pytest.fixture
def trampoline_compile() -> Callable[..., Compiled]:
    """Compiles a source (a `str`) or a file (a `Path`) for a target: `trampoline_compile(text, "linux/arm")`."""
    from .testing import compile_any

    return compile_any


@pytest.fixture
def trampoline_verify(request: pytest.FixtureRequest) -> Callable[..., Judged]:
    """Judges a source, a file or what `trampoline_compile` has made: `trampoline_verify(text, "linux/arm").holds()`.

    Without targets, those of --trampoline-target, or all; --trampoline-seed and --trampoline-runs hold here too."""
    from .testing import Text, verify_any

    config = request.config

    def judge(source: Text | Compiled, target: Any = None, **rest: Any) -> Judged:
        __tracebackhide__ = True
        rest.setdefault("seed", config.getoption("trampoline_seed"))
        rest.setdefault("runs", config.getoption("trampoline_runs"))
        if target is None and not hasattr(source, "artifacts"):
            target = config.getoption("trampoline_target")
        return verify_any(source, target, **rest)

    return judge
