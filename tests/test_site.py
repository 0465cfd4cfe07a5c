"""The site: it is built without a warning, loads nothing from other hosts, and leads with the tutorials."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import yaml

from tests import ROOT

TUTORIALS = ["reproduce.md", "cluster.md", "own_gesture.md", "judge.md"]


class Loads(HTMLParser):
    """The addresses that a browser fetches for a page: all but links that a person follows."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {"a": (), "link": ("href",)}.get(tag, ("src", "srcset", "href", "data"))
        self.addresses += [value for name, value in attrs if name in named and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def foreign(page: str) -> list[str]:
    """Return the addresses on other hosts that a page loads."""
    loads = Loads()
    loads.feed(page)
    return [address for address in loads.addresses if re.match(r"(https?:)?//", address)]


def test_pages_load_nothing_from_other_hosts(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 20
    assert {page.name: found for page in pages if (found := foreign(page.read_text(encoding="utf-8")))} == {}
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert styles and not re.search(r"url\(['\"]?(https?:)?//|@import", styles)


def test_a_font_of_another_host_would_be_found():
    assert foreign('<link href="https://a.b/c.css"><script src=//a.b/c.js></script><a href="https://a.b">x</a>') == [
        "https://a.b/c.css", "//a.b/c.js",
    ]  # fmt: skip


def test_the_reference_has_the_public_names_with_their_first_sentence(site):
    page = (site / "api/index.html").read_text(encoding="utf-8")
    for name in ("handdata.builds.build.Build.start", "handtrain.training.train.train", "handdata.errors.UserError"):
        assert f'id="{name}"' in page
    assert "resumes a build that was stopped" in re.sub(r"\s+", " ", page)


def test_the_first_page_and_the_menu_lead_with_the_tutorials():
    links = re.findall(r"\((\w+\.md)\) \|$", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert links == TUTORIALS
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert [name for entry in menu[1]["Tutorials"] for name in entry.values()] == TUTORIALS
