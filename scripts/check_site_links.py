"""Checks a built documentation site: links and anchors within it lead somewhere, and no page needs a network.

python scripts/check_site_links.py build/docs               # status 0 if all is well
python scripts/check_site_links.py build/docs --external    # also lists links that leave the site; none is fetched
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_LOADED = {("script", "src"), ("img", "src"), ("source", "srcset"), ("iframe", "src"), ("link", "href")}
"""What a browser fetches by itself; a link is followed by a reader."""


class Link(NamedTuple):
    """One reference of a page: whether the browser fetches it by itself, and to what."""

    loaded: bool
    url: str


class Page(HTMLParser):
    """The anchors of a page, and all it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[Link] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value or "")
            elif (tag, name) in _LOADED or (tag, name) == ("a", "href"):
                self.links.append(Link(tag != "a", value or ""))


def read(site: Path) -> dict[Path, Page]:
    """Return the pages of a site by their resolved paths, without those that were put there whole."""
    found = (path for path in site.resolve().rglob("*.html") if "_downloads" not in path.parts)
    return {path: Page(path.read_text(encoding="utf-8")) for path in found}


def broken(pages: dict[Path, Page]) -> Iterator[str]:
    """Yield a line for every reference that leads nowhere, or that would be fetched from a network."""
    for path, page in pages.items():
        for loaded, url in page.links:
            scheme, host, file, _, anchor = urlsplit(url)
            if scheme or host:
                if loaded and scheme != "data":
                    yield f"{path}: {url} would be fetched from a network"
                continue
            target = (path.parent / unquote(file)).resolve() if file else path
            if not target.is_file():
                yield f"{path}: there is no {url}"
            elif anchor and target in pages and unquote(anchor) not in pages[target].anchors:
                yield f"{path}: {url} has no such anchor"


def external(pages: dict[Path, Page]) -> list[str]:
    """Return the links that leave the site, each once."""
    links = {link.url for page in pages.values() for link in page.links if not link.loaded}
    return sorted(url for url in links if urlsplit(url).scheme in {"http", "https"})


def main() -> int:
    """Print what is wrong, and how much was looked at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="the folder of the built site")
    parser.add_argument("--external", action="store_true", help="list the links that leave the site")
    arguments = parser.parse_args()
    pages = read(arguments.site)
    wrong, leaving = list(broken(pages)), external(pages)
    print("\n".join([*wrong, *(leaving if arguments.external else ())]))
    links = sum(len(page.links) for page in pages.values())
    print(f"{len(pages)} pages, {links:,} references, {len(wrong)} broken; {len(leaving)} leave the site (--external)")
    return 1 if wrong or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
