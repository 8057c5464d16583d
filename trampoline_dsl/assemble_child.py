"""The process in which text that a user wrote is assembled: Keystone may hang, crash or exit here.

One JSON document a line: {"engines": [arch, [mode...]], "statement": text, "address": n} comes in, {"code": hex} or
{"refused": reason} goes out,
after a greeting. It ends with its standard input.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys

from .assemble import Keystone
from .confined import GREETING
from .engine import Refused
from .target import Engines

# Should the parent be killed while Keystone runs for ever, nobody else would end this process.
LONGEST_RUN = 5.0  # seconds


def main() -> None:
    # Keystone writes messages of its own to the standard streams: keep the answers apart from them.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    keystone = Keystone()
    answers.write(GREETING + "\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        architecture, mode = request["engines"]
        engines = Engines(architecture, tuple(mode), "", (), None, "", ())
        faulthandler.dump_traceback_later(LONGEST_RUN, exit=True)
        try:
            answer = {"code": keystone.encode(engines, request["statement"], request["address"]).hex()}
        except Refused as refused:
            answer = {"refused": str(refused)}
        faulthandler.cancel_dump_traceback_later()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
