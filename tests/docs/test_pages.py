"""Blocks and marks are found as tests/docs/pages.py says, mistakes are told."""

import pytest

from tests.docs import commands, pages

PAGE = """\
<!-- test: after: README.md -->
Text, then a block in a list:

  <!-- test: parse: needs a TPU -->
  ```bash
  vit-jax train \\
      --config=configs/digits.py
  ```

```bash
tail file
```
"""


def test_a_page_is_taken_apart():
    page = pages.read("p.md", PAGE)
    first, second = page.blocks
    assert page.after == "README.md"
    assert first.code == "vit-jax train \\\n    --config=configs/digits.py\n"
    assert (first.mark, first.text, first.line) == ("parse", "needs a TPU", 5)
    assert (second.mark, second.code) == ("", "tail file\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- test: parse -->\n```bash\nls\n```\n", "its text"),
        ("<!-- test: never -->\n```bash\nls\n```\n", "none of"),
        ("<!-- test:slow -->\n```bash\nls\n```\n", "not of the form"),
        ("<!-- test: slow -->\nwords\n", "right before its block"),
        ("<!-- test: slow -->\n<!-- test: slow -->\n", "has no block"),
        ("```bash\nls\n", "has no end"),
    ],
)
def test_a_wrong_mark_is_told(text, words):
    with pytest.raises(AssertionError, match=words):
        pages.read("p.md", text)


def test_commands_of_a_block():
    code = (
        "cat > x.py <<'END'\nvit-jax not a command\nEND\n"
        "A=1 vit-jax train --config=c.py \\\n    --config.data.split='train[:9%]'  # so\n"
        "for i in 0 1; do vit-jax evaluate --workdir=r --step=$i > log & done; wait\n"
    )
    assert commands.commands(code) == [
        ["cat"],
        ["vit-jax", "train", "--config=c.py", "--config.data.split=train[:9%]"],
        ["vit-jax", "evaluate", "--workdir=r", "--step=0"],
        ["wait"],
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("vit-jax trian --config=configs/digits.py", "trian"),
        ("vit-jax train --config=configs/digit.py", "no config file"),
        ("vit-jax train --config=configs/digits.py --config.sed=1", "unknown key"),
        ("vit-jax train --config=configs/digits.py --work=x", "unknown argument"),
        ("vit-jax train --config=configs/digits.py --config.mesh.data=3", "mesh"),
        ("make trian", "no target 'trian'"),
        ("python scripts/benchmark.py --modle=S/16", "has no --modle"),
        ("python scripts/benchmrk.py", "there is no"),
        ("curl x", "'curl' is none of"),
    ],
)
def test_a_wrong_command_is_told(command, words):
    (found,) = commands.commands(command)
    assert words in commands.problem(found)
