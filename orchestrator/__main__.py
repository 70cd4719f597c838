"""All commands under one name: `heteroakd`, or `python -m orchestrator`.

heteroakd [PRESET | FILE.yaml] [options]     python -m orchestrator.sweep
heteroakd show RUN                           python -m orchestrator.show
heteroakd leaderboard RUN …                  python -m orchestrator.leaderboard
heteroakd gallery RUN                        python -m orchestrator.gallery
heteroakd export RUN                         python -m distill.export
heteroakd predict MODEL PICTURE …            python -m distill.predict
heteroakd check FILE.yaml                    python -m distill.data check
"""

from __future__ import annotations

import importlib
import sys

from distill.command_line import ONE_NAME

COMMANDS = {
    "show": "orchestrator.show",
    "leaderboard": "orchestrator.leaderboard.__main__",
    "gallery": "orchestrator.gallery",
    "export": "distill.export.__main__",
    "predict": "distill.predict",
}
"""First argument, and the module whose `main` reads the others. Any other first argument is the sweep's."""


def main() -> None:
    """Run the command that the first argument names; without one, a sweep. Exits with the command's code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    sys.argv[0] = f"{ONE_NAME} {name}" if name in COMMANDS else ONE_NAME
    if name == "check":
        from distill.data.__main__ import main as check

        sys.exit(check(sys.argv[1:]))
    if name in COMMANDS:
        del sys.argv[1]
    importlib.import_module(COMMANDS.get(name, "orchestrator.sweep")).main()


if __name__ == "__main__":
    main()
