"""Takes secrets out of text before it is kept: what a run writes down is shown around.

Nothing of the environment is written on purpose (see `provenance`). This is for what comes along in an address, a
command line or the message of an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
_SHORTEST = 8  # anything shorter stands in innocent text as well

_CREDENTIALS = re.compile(r"""(\b[A-Za-z][A-Za-z0-9+.-]*:/{1,2})(?:[^\s'"/]*|[^\s'"/]*:[^\s'"]*)@""")
_SAYS_SECRET = r"(?:key|secret|token|passw|credential|signature|auth)"
_OPTIONS = re.compile(rf"""([?&][^=&\s'"]*{_SAYS_SECRET}[^=&\s'"]*=)[^&\s'"]+""", re.IGNORECASE)
_VARIABLE = re.compile(_SAYS_SECRET, re.IGNORECASE)


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without credentials in addresses, and without the values of variables whose names say secret.

    Args:
        text: what is to be kept or shown.
        environment: the variables; this process's own by default.
    """
    for name, value in environment.items():
        if len(value) >= _SHORTEST and value in text and _VARIABLE.search(name):
            text = text.replace(value, HIDDEN)
    return _OPTIONS.sub(rf"\1{HIDDEN}", _CREDENTIALS.sub(rf"\1{HIDDEN}@", text))
