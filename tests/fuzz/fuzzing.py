"""What all fuzz targets share: how many inputs, how they are made, and what counts as an answer.

In CI the inputs are the same every time, a few dozen to a few hundred per target. The long form tries others:

    FUZZ_EXAMPLES=20000 python -m pytest tests/fuzz --timeout 0
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.errors import UsageError, is_plain
from tests import examples as quick_or_all

LONG = int(os.environ.get("FUZZ_EXAMPLES", "0"))
TRIED: Counter[str] = Counter()
REFUSED: Counter[str] = Counter()


def fuzz(
    examples: int, **inputs: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test over so many made inputs; fixed ones in CI, fresh ones in the long form."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large,
                  HealthCheck.large_base_example, HealthCheck.filter_too_much]  # fmt: skip
        profile = settings(
            max_examples=LONG or quick_or_all(examples),
            derandomize=not LONG,
            database=None,
            deadline=None,
            suppress_health_check=health,
        )
        return profile(given(**inputs)(test))

    return decorate


def answers(target: str, call: Callable[[], object]) -> bool:
    """Whether the call took its input; one that it refuses it must refuse as a person can use it."""
    TRIED[target] += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except UsageError as error:
        REFUSED[target] += 1
        check_message(str(error))
        return False
    return True


def exits(target: str, main: Callable[[], int | None]) -> int:
    """The exit code of a command: 0, or 2 with a message and nothing else on standard error."""
    TRIED[target] += 1
    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        warnings.simplefilter("ignore")
        try:
            code = main() or 0
        except SystemExit as end:
            code = int(end.code or 0)
    assert code in (0, 2), (code, err.getvalue())
    check_plain(out.getvalue())
    if code == 2:
        REFUSED[target] += 1
        assert err.getvalue().startswith("error: ")
        check_message(err.getvalue())
    return code


def check_message(text: str) -> None:
    """A refusal says something, holds a rule or a remedy, and cannot steer a terminal."""
    check_plain(text)
    assert "Traceback" not in text
    assert "must" in text or ";" in text or "did you mean" in text or ". " in text or ": " in text, text
    assert len(text) < 50_000, text[:200]


def check_plain(text: str) -> None:
    """Nothing in the text is obeyed by a terminal rather than shown."""
    assert all(map(is_plain, text)), repr(text[:400])


def fingerprint(folder: Path) -> str:
    """Names, contents and times of all files below a folder."""
    known = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        known.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return known.hexdigest()


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a file cut short, with bits turned, with parts written over, left out or repeated."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        length = len(found)
        if not length:
            break
        near = st.integers(0, min(length, 1024) - 1)
        place = draw(st.one_of(near, near.map(lambda k, n=length: n - 1 - k), st.integers(0, length - 1)))
        kind = draw(st.sampled_from(("flip", "flip", "write", "cut", "remove", "insert", "zero", "repeat")))
        size = draw(st.integers(1, 64))
        if kind == "flip":
            found[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "write":
            new = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(_MARKS)))
            found[place : place + len(new)] = new
        elif kind == "cut":
            del found[place:]
        elif kind == "remove":
            del found[place : place + size]
        elif kind == "insert":
            found[place:place] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "zero":
            found[place : place + size] = bytes(size)
        else:
            found[place:place] = found[place : place + size]
    return bytes(found)


_MARKS = (
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\0" * 8,
    b"\xff" * 8,
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"{",
    b'"',
)

text = st.text(st.characters(codec="utf-8"), max_size=20)
scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, 3, -1, 255, 256, 2**31, 2**63, 10**30, 10**4000]),
    st.floats(),
    text,
    st.sampled_from(["", "..", "../x", "/", "~", "\x1b[31m", "a\0b", "=1+1", "|`<b>", "é", "\u202e", "1e999", "nan", "x" * 5000]),
)  # fmt: skip
value = st.recursive(
    scalar,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(text, scalar), inner, max_size=3)
    ),
    max_leaves=6,
)
