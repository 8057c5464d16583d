"""What programs that nobody here wrote say of the project's output. It shares modules with the tests, which are no
package: they are found by their names alone, as pytest has it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
