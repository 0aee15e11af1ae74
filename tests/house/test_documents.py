"""What the documents point to is there, and a reader of the README is led to every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "loadtests/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def linked(page: Path) -> set[Path]:
    """The files of ours that a page links to."""
    return {(page.parent / target).resolve() for target in LINK.findall(page.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    assert [str(target) for target in linked(page) if not target.exists()] == []


def test_the_readme_links_every_page() -> None:
    there = linked(ROOT / "README.md")
    assert [
        str(page) for page in PAGES[1:] if page not in there and (ROOT / "docs/decisions") not in page.parents
    ] == []


def test_the_unit_fits_the_commands_of_the_readme() -> None:
    readme, unit = (ROOT / "README.md").read_text(), (ROOT / "docs/install/gatepost.service").read_text()
    assert "git clone <this repository> /opt/gatepost && cd /opt/gatepost\nmake .venv/serve\n" in readme
    assert "WorkingDirectory=/opt/gatepost\nExecStart=/opt/gatepost/.venv/bin/python serve.py\n" in unit
    assert "useradd --system gatepost\ninstall -d -o gatepost -g gatepost -m 700 state\n" in readme
    assert "User=gatepost\n" in unit
    for name in ("gatepost.service", "Caddyfile", "nginx.conf"):
        assert f"docs/install/{name}" in readme
