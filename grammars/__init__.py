"""The Lark grammars, as package data."""
