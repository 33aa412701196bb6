"""The hook of `mkdocs build`: pages of the site whose files lie outside `docs/`, and links that hold in both places.

Every Markdown file of the repository links to other files by their path in the repository, so that it can be read where
it lies. On the site, a link to a Markdown file becomes a link to its page, and a link to any other file outside `docs/`
becomes a link to a copy of that file. A link that leads nowhere stays, and `mkdocs build --strict` refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "src/look_again/assets/tiny/README.md": "tiny-model.md",
}
COPIES = "repository"
FENCE = re.compile(r"^ {0,3}(```|~~~)")
LINK = re.compile(r'(?P<before>\]\(|\bsrc=")(?P<target>[^)\s"]+)')


def on_config(config: Any) -> Any:
    """Adds a section to the navigation for the recipes that have a page."""
    recipes = [uri for uri in find_pages().values() if uri.startswith("recipes/")]
    if recipes:
        config.nav.insert(-2, {"Recipes": recipes})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages outside `docs/`, and a copy of every other file that some page links to."""
    for path, uri in find_pages().items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for page in list(files.documentation_pages()):
        path = find_source(page.src_uri)
        for match in LINK.finditer((ROOT / path).read_text()):
            target = resolve(path, match["target"])
            if is_copied(target) and files.get_file_from_path(f"{COPIES}/{target}") is None:
                files.append(File.generated(config, f"{COPIES}/{target}", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Returns the page's text with every link outside a code block rewritten for the site."""
    source, fenced, lines = find_source(page.file.src_uri), False, []
    for line in markdown.split("\n"):
        fenced ^= bool(FENCE.match(line))
        lines.append(line if fenced else LINK.sub(lambda match: rewrite(match, source, page.file.src_uri), line))
    return "\n".join(lines)


def find_pages() -> dict[str, str]:
    """Returns the page of each Markdown file outside `docs/`, by the file's path."""
    recipes = sorted(path.relative_to(ROOT) for path in ROOT.glob("recipes/*/README.md"))
    return PAGES | {path.as_posix(): f"recipes/{path.parent.name}.md" for path in recipes}


def find_source(uri: str) -> str:
    """Returns the path in the repository of the file from which a page is made."""
    return {page: path for path, page in find_pages().items()}.get(uri, f"docs/{uri}")


def resolve(source: str, target: str) -> str:
    """Returns the path in the repository that a link in the file `source` means, or "" where it means no file."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), parts.path))
    readme = f"{path}/README.md"
    return readme if readme in find_pages() else path


def is_copied(path: str) -> bool:
    inside = path.startswith(("docs/", "../")) or path in find_pages()
    return bool(path) and not inside and (ROOT / path).is_file()


def rewrite(match: re.Match[str], source: str, uri: str) -> str:
    path = resolve(source, match["target"])
    if path in find_pages():
        page = find_pages()[path]
    elif is_copied(path):
        page = f"{COPIES}/{path}"
    elif path.startswith("docs/"):
        page = path.removeprefix("docs/")
    else:
        return match[0]
    fragment = urlsplit(match["target"]).fragment
    target = posixpath.relpath(page, posixpath.dirname(uri) or ".")
    return f"{match['before']}{target}{'#' + fragment if fragment else ''}"
