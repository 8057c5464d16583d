"""Windows programs run under Debian's wine, without a screen, each architecture in a folder of its own.

windows/amd64 takes the package wine64. For windows/386 the package wine32 is one of another architecture, which only
installs beside an amd64 system whose libraries are of the very same versions; so its files, and those of the
libraries that it cannot do without, are unpacked into a folder of their own. FreeType is none of them: with it, and
without a screen, wine starts desktops without end.

    python -m tests.outside.wine DIR        # needs apt-get and patchelf; about 600 MB

and TRAMPOLINE_WINE32=DIR says where they are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.outside.toolchain import Missing, Ran, run

PROGRAMS = Path(__file__).with_name("windows_programs")

WINE32 = "TRAMPOLINE_WINE32"
_PACKAGES = "wine32 libwine libz-mingw-w64 libc6 libgcc-s1 libunwind8 liblzma5 zlib1g"

# What wine would load or start besides, of no use without a screen: for a program that crashes, a debugger.
_OVERRIDES = "mscoree,mshtml,winemenubuilder.exe,winedbg.exe=d"

# A program that fails may have others started that fail as well; beyond this many all are ended.
_MOST_PROCESSES = 60


@dataclass(frozen=True)
class _Loader:
    """Where wine's own programs are."""

    wine: Path
    server: Path
    architecture: str  # WINEARCH
    libraries: str = ""  # LD_LIBRARY_PATH


def _loader(goarch: str) -> _Loader:
    if goarch == "amd64":
        found = _Loader(Path("/usr/lib/wine/wine64"), Path("/usr/lib/wine/wineserver64"), "win64")
        if not found.wine.exists() or not found.server.exists():
            raise Missing("wine64 is not installed (apt-get install wine64)")
        return found
    tree = Path(os.environ[WINE32]) if os.environ.get(WINE32) else Path("/")
    binaries = tree / "usr/lib/wine"
    libraries = f"{tree / 'lib/i386-linux-gnu'}:{tree / 'usr/lib/i386-linux-gnu'}" if tree != Path("/") else ""
    found = _Loader(binaries / "wine", binaries / "wineserver32", "win32", libraries)
    if not found.wine.exists() or not found.server.exists():
        raise Missing(f"a 32-bit wine is not installed: python -m tests.outside.wine DIR, and {WINE32}=DIR")
    return found


class Wine:
    """A Windows with its own drive C under `folder`. To be closed: it has processes of its own."""

    def __init__(self, goarch: str, compiler: str, folder: Path) -> None:
        self.goarch = goarch
        self.compiler = compiler
        self.prefix = folder / f"wine_{goarch}"
        self._loader = _loader(goarch)

    def __enter__(self) -> Wine:
        self._prepare()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        if self._loader.libraries:
            kept["LD_LIBRARY_PATH"] = self._loader.libraries
        return {
            **kept,
            "HOME": str(self.prefix),
            "WINEARCH": self._loader.architecture,
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": _OVERRIDES,
            "WINELOADER": str(self._loader.wine),
            "WINEPREFIX": str(self.prefix),
            "WINESERVER": str(self._loader.server),
        }

    @property
    def drive(self) -> Path:
        return self.prefix / "drive_c"

    def windows(self, path: Path) -> str:
        """A path as Windows programs have it."""
        return "Z:" + str(path.resolve()).replace("/", "\\")

    def host(self, words: str) -> str:
        """Text with the paths of Windows programs in it, as the host has them."""
        roots = {"c": str(self.drive), "z": ""}

        def changed(found: re.Match[str]) -> str:
            return found[1] + roots[found[2].lower()] + found[3].replace("\\", "/")

        return re.sub(r"(^|=|-[LI])([CcZz]):([\\/].*)$", changed, words)

    def run(
        self,
        program: Path | str,
        *words: str,
        timeout: float,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        """A Windows program and what it says. It and its children are gone after `timeout` seconds."""
        begun = time.monotonic()
        # wine says things of its own beside the program's errors, and writes where it believes a file to end.
        texts = [self.prefix.parent / f"{self.prefix.name}.{kind}" for kind in ("output", "errors")]
        for text in texts:
            text.unlink(missing_ok=True)
        with texts[0].open("ab") as output, texts[1].open("ab") as errors:
            process = subprocess.Popen(
                [str(self._loader.wine), str(program), *words],
                cwd=cwd,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            ended, why = False, ""
            while not (ended or why):
                try:
                    process.wait(timeout=1)
                    ended = True
                except subprocess.TimeoutExpired:
                    if time.monotonic() - begun > timeout:
                        why = f"ended after {timeout:.0f} s"
                    elif len(self._processes()) > _MOST_PROCESSES:
                        why = f"ended: more than {_MOST_PROCESSES} processes"
            if why:
                process.kill()
                self._kill()
                process.wait(timeout=30)
        said = "".join(text.read_text(encoding="utf-8", errors="replace") for text in texts).replace("\r\n", "\n")
        return Ran(None if why else process.returncode, said + (f"\n{why}\n" if why else ""), time.monotonic() - begun)

    def _prepare(self) -> None:
        system = self.drive / "windows" / "system32"
        made = self._boot(system)
        if made.status != 0:  # seen once in some thirty runs: "could not load kernel32.dll" behind "has been updated"
            made = self._boot(system)
        if made.status != 0 or not (system / "kernel32.dll").exists():
            self._end()
            raise Missing(f"wineboot -i: status {made.status}, twice\n{made.output}")
        shim = ["-shared", "-O1", "-s", "-Wl,--kill-at", PROGRAMS / "bcryptprimitives.c", "-ladvapi32"]
        shim += ["-o", system / "bcryptprimitives.dll"]
        built = run([self.compiler, *shim], timeout=60, cwd=self.prefix)
        if built.status != 0:
            self._end()
            raise Missing(f"{self.compiler}: status {built.status}\n{built.output}")

    def _boot(self, system: Path) -> Ran:
        if self.prefix.exists():
            self._end()
            shutil.rmtree(self.prefix)
        system.mkdir(parents=True)
        zlib = self._loader.wine.parents[2] / "i686-w64-mingw32" / "lib" / "zlib1.dll"
        if self.goarch == "386" and zlib.exists():
            shutil.copy(zlib, system)
        return self.run("wineboot", "-i", timeout=120, cwd=self.prefix)

    def _processes(self) -> list[int]:
        """Those that have this Windows in their environment."""
        mark = f"WINEPREFIX={self.prefix}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if mark in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
                except OSError:
                    continue  # it has ended, or is not ours
        return found

    def _kill(self) -> None:
        for _ in range(20):
            processes = self._processes()
            for process in processes:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not processes:
                return
            time.sleep(0.1)

    def _end(self) -> None:
        run([self._loader.server, "-k"], timeout=30, cwd=self.prefix, environment=self.environment)
        self._kill()


class Forward:
    """go.exe and gcc.exe for programs under wine: the host's run, for as long as this is open."""

    def __init__(
        self, wine: Wine, program: Path, folder: Path, commands: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        self.wine = wine
        self.folder = folder
        self.commands = dict(commands)
        self.environment = dict(environment)
        self.asked: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        for name in commands:
            shutil.copy(program, folder / f"{name}.exe")
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]

    def __enter__(self) -> Forward:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=300)

    def _serve(self) -> None:
        while not self._over.wait(0.02):
            for request in self.folder.glob("*.request"):
                text = request.read_text(encoding="utf-8")
                request.unlink()
                reply = request.with_suffix(".reply")
                thread = threading.Thread(target=self._reply, args=(json.loads(text), reply), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _reply(self, asked: Mapping[str, object], reply: Path) -> None:
        made = reply.with_suffix(".answer")
        made.write_text(json.dumps(self._answer(asked)), encoding="utf-8")
        made.rename(reply)

    def _answer(self, asked: Mapping[str, object]) -> dict[str, object]:
        name, directory, words = asked["Program"], asked["Directory"], asked["Words"]
        assert isinstance(name, str)
        assert isinstance(directory, str)
        assert isinstance(words, list)
        words = [self.wine.host(str(word)) for word in words]
        self.asked.append(" ".join([name, *words]))
        # What Go's tests want to know of the host's commands is where they are, for Windows.
        if words == ["tool", "-n", "compile"]:
            return {"Status": 0, "Output": self.wine.windows(self.folder / "go.exe") + "\n"}
        if words == ["env", "CC"]:
            return {"Status": 0, "Output": "gcc\n"}
        try:
            done = subprocess.run(
                [self.commands[name], *words],
                cwd=self.wine.host(directory),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=240,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"Status": 124, "Errors": f"{error}\n"}
        return {"Status": done.returncode, "Output": done.stdout, "Errors": done.stderr}


def unpack(folder: Path) -> None:
    """Debian's 32-bit wine, into a folder. Raises Missing if a program that this takes is not there or fails."""
    for program in ("apt-get", "dpkg-deb", "patchelf"):
        if shutil.which(program) is None:
            raise Missing(f"{program} is not installed")
    if (folder / "usr/lib/wine/wineserver").is_symlink():
        return  # done before
    packages = folder / "packages"
    for name in ("state/lists/partial", "cache/archives/partial", "packages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    status = folder / "status"
    status.touch()
    options = {
        "APT::Architecture": "i386",
        "APT::Architectures": "i386",
        "APT::Sandbox::User": "root",
        "Dir::State": folder / "state",
        "Dir::State::status": status,
        "Dir::Cache": folder / "cache",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    # Of several sources one may fail for this architecture; what counts is that the packages are found.
    run([*apt, "update"], timeout=300, cwd=packages)
    fetched = run([*apt, "download", *_PACKAGES.split()], timeout=600, cwd=packages)
    if fetched.status != 0:
        raise Missing(f"apt-get download: status {fetched.status}\n{fetched.output}")
    for package in sorted(packages.glob("*.deb")):
        unpacked = run(["dpkg-deb", "-x", package, folder], timeout=120, cwd=packages)
        if unpacked.status != 0:
            raise Missing(f"dpkg-deb -x {package.name}: status {unpacked.status}\n{unpacked.output}")
    shutil.rmtree(packages)
    binaries = folder / "usr/lib/wine"
    for program in ("wine", "wineserver32"):
        changed = run(
            ["patchelf", "--set-interpreter", folder / "lib/ld-linux.so.2", binaries / program],
            timeout=60,
            cwd=folder,
        )
        if changed.status != 0:
            raise Missing(f"patchelf: status {changed.status}\n{changed.output}")
    # What the packages do when they are installed: a library of theirs is copied to wine's own.
    shutil.copy(folder / "usr/i686-w64-mingw32/lib/zlib1.dll", folder / "usr/lib/i386-linux-gnu/wine/i386-windows")
    (binaries / "wineserver").unlink()  # a script that prefers the system's
    (binaries / "wineserver").symlink_to("wineserver32")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m tests.outside.wine DIR", file=sys.stderr)
        return 2
    try:
        unpack(Path(arguments[0]).resolve())
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
