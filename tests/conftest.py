"""What every test directory shares: helper modules beside this file are found by name (pytest puts its folder on the
path), and `need` for the programs that a test cannot do without."""

from __future__ import annotations

from tools import need

__all__ = ["need"]
