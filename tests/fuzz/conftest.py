"""Says at the end how many inputs each target was given, and how many of them it refused."""

from __future__ import annotations

from typing import Any

from tests.fuzz.fuzzing import REFUSED, TRIED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for target, tried in sorted(TRIED.items()):
        terminalreporter.write_line(f"fuzz: {target}: {tried} inputs, {REFUSED[target]} refused")
    if TRIED:
        terminalreporter.write_line(f"fuzz: {TRIED.total()} inputs in all")
