"""An engine for text that is not to be trusted: Keystone in a process that is ended when it does not answer."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading

from .engine import Refused
from .target import Engines

PATIENCE = 2.0  # seconds for one statement
_START = 30.0  # seconds for an interpreter to start, perhaps on a busy machine
_CHILD = "trampoline_dsl.assemble_child"
GREETING = "ready"


class Confined:
    """Starts its process on first need and keeps it. May be used by several threads, one statement at a time."""

    name = "keystone, confined"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        atexit.register(self.close)

    def encode(self, engines: Engines, statement: str, address: int) -> bytes:
        request = {
            "engines": [engines.keystone_arch, list(engines.keystone_mode)],
            "statement": statement,
            "address": address,
        }
        with self._lock:
            answer = self._ask(json.dumps(request) + "\n")
        if "refused" in answer:
            raise Refused(answer["refused"])
        return bytes.fromhex(answer["code"])

    def close(self) -> None:
        with self._lock:
            self._end()

    def _ask(self, line: str) -> dict[str, str]:
        process = self._running()
        reply, late = _exchange(process, line, PATIENCE)
        if reply.endswith("\n") and not late:
            answer: dict[str, str] = json.loads(reply)
            return answer
        self._end()
        if late:
            raise Refused(f"Keystone does not end on it within {PATIENCE:g} seconds")
        raise Refused(f"Keystone crashes or exits on it (status {process.returncode})")

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._owner = os.getpid()
        greeting, _ = _exchange(self._process, "", _START)
        if greeting.strip() != GREETING:
            self._end()
            raise Refused(f"the process for text of users does not start: {sys.executable} -m {_CHILD}")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:
                continue  # what was still to be written has no reader any more
        if self._owner == os.getpid():
            process.kill()
            process.wait()
        # else it belongs to the process that this one was forked from


def _exchange(process: subprocess.Popen[str], line: str, patience: float) -> tuple[str, bool]:
    """Send a line and read one, "" if the process ended; and whether it was ended because it took too long."""
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(patience, end)
    timer.start()
    try:
        process.stdin.write(line)
        process.stdin.flush()
        reply = process.stdout.readline()
    except OSError:
        reply = ""  # it ended before it had read everything
    finally:
        timer.cancel()
        timer.join()
    return reply, late.is_set()
