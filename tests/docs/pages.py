"""The fenced blocks of README.md and docs/, and what the tests do with each.

A comment in front of a block says it, and is not shown where the page is read:

    <!-- test: slow -->             run it, among the slow tests
    <!-- test: parse: WHY -->       do not run it: it needs hardware, a download, a server
    <!-- test: named: NAME -->      a test of its own takes it from here by name
    <!-- test: after: PAGE -->      on its own: the page's commands need PAGE's outputs

A `bash` block without one is run by the default tests. A page is a session: its blocks
run in order, in one directory.
"""

import dataclasses
import functools
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"( *)```(\w*)$")
MARK = re.compile(r" *<!-- test: (\w+)(?:: (.+))? -->$")
WORDS = {"slow": False, "parse": True, "named": True, "after": True}  # has a text


@dataclasses.dataclass(frozen=True)
class Block:
    """A block: where it is, what it says, and the mark in front of it."""

    page: str
    line: int
    language: str
    code: str
    mark: str = ""  # "", slow, parse, named
    text: str = ""

    def __str__(self):
        return f"{self.page}:{self.line}"


@dataclasses.dataclass(frozen=True)
class Page:
    """A page's blocks, and the page whose outputs they need, or ""."""

    name: str
    blocks: tuple[Block, ...]
    after: str


def names():
    """Every page, by its path from the root."""
    own = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    files = [*own, *sorted((ROOT / "docs").rglob("*.md"))]
    return [file.relative_to(ROOT).as_posix() for file in files]


@functools.cache
def page(name):
    """A page that is there, taken apart."""
    return read(name, (ROOT / name).read_text())


def read(name, text):
    """Takes a page apart; a mark that says nothing known is an error."""
    blocks, after, mark = [], "", ("", "")
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        place = f"{name}:{number}"
        if line.lstrip().startswith("<!-- test"):
            assert mark == ("", ""), f"{place}: the mark above it has no block"
            mark = _mark(line, place)
            if mark[0] == "after":
                after, mark = mark[1], ("", "")
        elif fence := FENCE.match(line):
            indent, language = fence.groups()
            code = []
            for _, inner in lines:
                if inner == f"{indent}```":
                    break
                code.append(inner.removeprefix(indent))
            else:
                raise AssertionError(f"{place}: the block has no end")
            code = "\n".join(code) + "\n"
            blocks.append(Block(name, number, language, code, *mark))
            mark = ("", "")
        elif line.strip():
            assert mark == ("", ""), f"{place}: a mark stands right before its block"
    return Page(name, tuple(blocks), after)


def _mark(line, place):
    found = MARK.match(line)
    assert found, f"{place}: {line.strip()!r} is not of the form of tests/docs/pages.py"
    word, text = found.groups()
    assert word in WORDS, f"{place}: {word!r} is none of {', '.join(WORDS)}"
    assert bool(text) == WORDS[word], f"{place}: {word!r} and its text"
    return word, text or ""


def blocks(language):
    """All blocks of a language, of all pages."""
    each = [block for name in names() for block in page(name).blocks]
    return [block for block in each if block.language == language]


@functools.cache
def named(name):
    """The code of the only block marked ``named: NAME``."""
    (block,) = (
        block
        for block in blocks("python")
        if (block.mark, block.text) == ("named", name)
    )
    return block.code
