"""The pages build as a site without a warning, and links lead somewhere."""

import fnmatch
import os
import re
import subprocess
import sys

import pytest

from tests.docs import pages

LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def anchors(text):
    """Of the headings of a page, as the site and code hosts make them."""
    lines = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M).splitlines()
    titles = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
    bare = [re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles]
    return {title.replace(" ", "-") for title in bare}


def test_the_readme_says_where_every_file_is():
    """Those of the package's first level; a name that ends in * stands for several."""
    text = (pages.ROOT / "README.md").read_text()
    named = re.findall(r"[a-z_]+(?:\*?\.py|/)", text.split("## Where things are")[1])
    missing = [
        path.name
        for path in sorted((pages.ROOT / "vit_jax").iterdir())
        if not path.name.startswith("__")
        and not any(fnmatch.fnmatch(path.name, name.rstrip("/")) for name in named)
    ]
    assert not missing


@pytest.mark.parametrize("name", [*pages.names(), "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    file = pages.ROOT / name
    for link in LINK.findall(file.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path) if path else file
        assert target.exists(), f"{name}: {link}"
        if name.startswith("docs/"):  # the site has no other files
            assert target.resolve().is_relative_to(pages.ROOT / "docs"), link
        if anchor:
            assert anchor in anchors(target.read_text()), f"{name}: {link}"


def test_the_site_builds_strictly_and_asks_for_nothing_outside(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=pages.ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    for name in pages.names():
        if name.startswith("docs/"):
            page = tmp_path / name.removeprefix("docs/").replace(".md", ".html")
            loaded = re.findall(
                r'(?:src|<link[^>]+href)="(http[^"]+)"', page.read_text()
            )
            assert not loaded, f"{name}: {loaded}"
            assert "test: " not in re.sub(
                r"<!--.*?-->", "", page.read_text(), flags=re.S
            )
