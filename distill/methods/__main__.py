"""`python -m distill.methods docs` writes `docs/methods.md`; run it in the repository."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m distill.methods", description=__doc__)
    parser.add_argument("task", choices=["docs"], help="docs: write the page about all methods")
    parser.add_argument("--output", type=Path, default=Path("docs/methods.md"))
    arguments = parser.parse_args()

    from distill.methods.documentation import methods_page

    arguments.output.write_text(methods_page(Path.cwd()), encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
