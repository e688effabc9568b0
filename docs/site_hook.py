"""For mkdocs: what pages link to outside docs/ becomes part of the site, under repository/; README.md is its first page.

On a forge the pages are read where they lie, so links are relative to the repository. Here each is followed, its target added,
and the link turned to where that is in the site. Folders and programs are named in the text, not copied.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
COPIED = (".md", ".webp", ".csv", ".json")
FIRST = "index.md"


def place(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path == "README.md":
        return FIRST
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def target(page: str, link: str) -> str:
    """The file of the repository that a link of a page means, both from the repository's top."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def linked(pages: list[str]) -> set[str]:
    """What these pages link to outside docs/, and what that links to."""
    found: set[str] = set()
    waiting = list(pages)
    while waiting:
        page = waiting.pop()
        for _, link, _ in LINK.findall((ROOT / page).read_text()):
            path = target(page, link)
            if (
                ":" not in link
                and path not in found
                and (ROOT / path).is_file()
                and path.endswith(COPIED)
                and not path.startswith("docs/")
            ):
                found.add(path)
                waiting += [path] if path.endswith(".md") else []
    return found


def on_files(files: Files, config: Any) -> Files:
    pages = [f"docs/{file.src_uri}" for file in files if file.src_uri.endswith(".md")]
    for path in sorted(linked([*pages, "README.md"]) | {"README.md"}):
        files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    uri = page.file.src_uri
    own = "README.md" if uri == FIRST else uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"

    def turned(match: re.Match[str]) -> str:
        text, link, fragment = match.groups()
        path = target(own, link)
        if ":" in link:
            return match[0]
        if not path.endswith(COPIED):
            return text
        return f"[{text}]({posixpath.relpath(place(path), posixpath.dirname(uri) or '.')}{fragment or ''})"

    return LINK.sub(turned, markdown)
