"""The commands of a block of shell, and whether each can be right; nothing is run."""

import contextlib
import io
import re
import shlex

from tests.docs.pages import ROOT
from vit_jax import cli
from vit_jax import config as configs

# What the pages call beside `vit-jax`, `make` and scripts of this repository.
OTHERS = {
    ".venv/bin/pre-commit": "formats at each commit",
    "bash": "runs what `vit-jax launch` wrote",
    "cat": "writes a file from the page",
    "cd": "changes the directory",
    "[": "asks whether a file is there",
    "export": "a variable for what follows",
    "gcloud": "Google Cloud's own tool",
    "git": "clones the repository",
    "kill": "ends a run that the page began",
    "kubectl": "Kubernetes' own tool",
    "mkdir": "makes a directory",
    "mv": "moves downloads into place",
    "pip": "installs packages",
    "python": "runs a line of Python; scripts are looked at below",
    "python3": "makes an environment",
    "source": "enters an environment",
    "sleep": "waits",
    "sudo": "installs Debian's packages",
    "tail": "shows the end of a file",
    "timm-env/bin/pip": "installs timm in an environment of its own",
    "timm-env/bin/python": "runs Python there",
    "tensorboard": "a server that stays",
    "true": "goes on after a failure",
    "wait": "waits for what runs in the background",
}
DEVICES = (1, 8)  # a config is right on one of these
_HERE_DOCUMENT = re.compile(r"<<'?(\w+)'?(.*)\n(?:.*\n)*?\1$", re.M)
_ASSIGNMENT = re.compile(r"\w+=.*", re.S)
_PUNCTUATION = frozenset(";&|()")


def commands(code):
    """The words of every simple command, without redirections and assignments."""
    code = _HERE_DOCUMENT.sub(r"\2", code).replace("\\\n", " ")
    code = re.sub(r"\$\{?\w+\}?", "0", code)  # of loops, and $HOME
    lexer = shlex.shlex(code.replace("\n", "\n;"), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found, words = [], []
    for word in [*lexer, ";"]:
        if set(word) <= _PUNCTUATION:
            found.append(_simple(words))
            words = []
        else:
            words.append(word)
    return [words for words in found if words]


def _simple(words):
    """A command without what the shell takes for itself."""
    if words[:1] == ["for"]:
        return []
    while words and (
        words[0] in ("do", "done", "until") or _ASSIGNMENT.fullmatch(words[0])
    ):
        words = words[1:]
    redirected = next((i for i, word in enumerate(words) if word[0] in "<>"), None)
    return words[:redirected]


def problem(words, folder=ROOT):
    """What is wrong with a command, or ""; configs are looked for from the folder."""
    first, *rest = words
    if first == "vit-jax":
        return _vit_jax(rest, folder)
    if first == "make":
        targets = [word for word in rest if "=" not in word]
        known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        return "".join(f"no target {name!r}; " for name in {*targets} - {*known})
    if first.startswith("scripts/"):
        return _script(first, rest)
    if first == "python" and rest and rest[0].startswith("scripts/"):
        return _script(rest[0], rest[1:])
    return "" if first in OTHERS else f"{first!r} is none of {', '.join(OTHERS)}"


def _script(path, rest):
    if not (ROOT / path).is_file():
        return f"there is no {path}"
    source = (ROOT / path).read_text()
    flags = {word.partition("=")[0] for word in rest if word.startswith("--")}
    unknown = {flag for flag in flags if flag not in source}
    return f"{path} has no {', '.join(sorted(unknown))}" if unknown else ""


def _vit_jax(words, folder):
    """Parses as the command does, then loads and checks a config that is named."""
    overrides = [word for word in words if word.startswith("--config.")]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options, unknown = cli.build_parser().parse_known_args(
                [word for word in words if word not in overrides]
            )
    except SystemExit as end:
        return said.getvalue() if end.code else ""
    if unknown:
        return f"unknown argument {unknown[0]!r}"
    spec = getattr(options, "config", None)
    if spec is None or spec.startswith("runs/"):  # what a command before it writes
        return ""
    try:
        with contextlib.chdir(folder):
            loaded = configs.load(spec, overrides)
        if loaded.model.variant == "source":  # weights that are not there
            loaded.model.variant = "B/8"
        found = [configs.check(loaded, facts=None, num_devices=n) for n in DEVICES]
        return "" if [] in found else "; ".join(found[-1])
    except ValueError as error:
        return str(error)
