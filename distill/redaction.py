"""Removes secrets from text before it is stored, because a run's files are shared.

Environment variables are never stored on purpose (see `provenance`). This removes secrets from addresses, command lines
and error messages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
_SHORTEST = 8  # shorter values also occur in harmless text

_CREDENTIALS = re.compile(r"""(\b[A-Za-z][A-Za-z0-9+.-]*:/{1,2})(?:[^\s'"/]*|[^\s'"/]*:[^\s'"]*)@""")
_SAYS_SECRET = r"(?:key|secret|token|passw|credential|signature|auth)"
_OPTIONS = re.compile(rf"""([?&][^=&\s'"]*{_SAYS_SECRET}[^=&\s'"]*=)[^&\s'"]+""", re.IGNORECASE)
_VARIABLE = re.compile(_SAYS_SECRET, re.IGNORECASE)


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without credentials in addresses and without the values of secret environment variables.

    Args:
        text: text to store or show.
        environment: environment variables; those whose names suggest a secret are removed.
    """
    for name, value in environment.items():
        if len(value) >= _SHORTEST and value in text and _VARIABLE.search(name):
            text = text.replace(value, HIDDEN)
    return _OPTIONS.sub(rf"\1{HIDDEN}", _CREDENTIALS.sub(rf"\1{HIDDEN}@", text))
