"""Hooks of `make docs`: pages of the repository's root, and links out of docs/, as the site needs them.

In the repository every link leads to a file. On the site, files that are pages are linked as pages and all others on
`repo_url`. A link to a file that does not exist is left as it is, and `mkdocs build --strict` refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the root's pages."""
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Replaces the links between files of the repository by links between pages of the site."""
    here = page.file.src_uri
    roots = {target: source for source, target in ROOT_PAGES.items()}
    folder = posixpath.dirname(roots.get(here, f"docs/{here}"))

    def on_site(match: re.Match[str]) -> str:
        linked, anchor = posixpath.normpath(posixpath.join(folder, match[1])), match[2] or ""
        target = ROOT_PAGES.get(linked, linked.removeprefix("docs/"))
        if linked == "docs/benchmark":
            target = "benchmark/README.md"
        if files.get_file_from_path(target) is not None and (
            linked in ROOT_PAGES or linked.startswith("docs/")
        ):
            return posixpath.relpath(target, posixpath.dirname(here) or ".") + anchor
        is_folder = (ROOT / linked).is_dir()
        if (linked.startswith("docs/") and not is_folder) or not (ROOT / linked).exists():
            return match[0]
        kind = "tree" if is_folder else "blob"
        return f"{config.repo_url.rstrip('/')}/{kind}/main/{linked}{anchor}"

    return LINK.sub(on_site, markdown)
