"""Where the target's code comes from: a wheel of this checkout, or a revision."""

import importlib.util
import pathlib
import re
import subprocess
import sys
import tomllib

from vit_jax.launch.job import Code, LaunchError

_GIT = re.compile(r"git\+(?P<scheme>https|ssh|file)://(?P<rest>\S+)@(?P<rev>[\w.\-/]+)")
_VERSION = re.compile(r"\d+(\.\d+)+([a-z]+\d+)?")
_CHOICES = "wheel (of this checkout), FILE.whl, git+URL@REVISION or a VERSION"


def resolve(text: str, folder: pathlib.Path) -> Code:
    """What `--code` names; builds a wheel in ``folder`` where it says so.

    Raises:
      LaunchError: it names nothing, or the wheel cannot be built.
    """
    if text == "wheel":
        return _build(folder)
    if text.endswith(".whl"):
        wheel = pathlib.Path(text).expanduser()
        if not wheel.is_file():
            raise LaunchError(f"--code={text}: there is no such file")
        return Code("", wheel.resolve(), f"wheel {wheel.name}")
    if text.startswith("git+"):
        return _git(text)
    if _VERSION.fullmatch(text):
        return Code(f"=={text}", None, f"published version {text}")
    raise LaunchError(f"--code={text!r} is none of: {_CHOICES}")


def _git(text: str) -> Code:
    match = _GIT.fullmatch(text)
    if match is None:
        raise LaunchError(
            "--code=git+... needs https://, ssh:// or file:// and a revision, such as "
            "git+https://HOST/OWNER/REPOSITORY@0123abc: a branch's tip would be other "
            "code after each restart"
        )
    user = match["rest"].partition("/")[0].rpartition("@")[0]
    if ":" in user or (user and match["scheme"] == "https"):
        raise LaunchError(
            "--code has a password or token in its URL, which would be written to a "
            "file; use ssh://, or ship a wheel"
        )
    return Code(text, None, f"revision {match['rev']}")


def checkout() -> pathlib.Path | None:
    """The source checkout that this package is imported from, if it is one."""
    root = pathlib.Path(__file__).resolve().parents[2]
    file = root / "pyproject.toml"
    if not file.is_file():
        return None
    named = tomllib.loads(file.read_text()).get("project", {}).get("name")
    return root if named == "vit-jax" else None


def _build(folder: pathlib.Path) -> Code:
    root = checkout()
    if root is None:
        raise LaunchError(
            "--code=wheel builds one of the source checkout, and this package is "
            f"installed; give one of: {_CHOICES}"
        )
    command = [sys.executable, "-m", "pip", "wheel", str(root), "--no-deps", "--quiet"]
    if importlib.util.find_spec("hatchling"):
        command.append("--no-build-isolation")  # nothing is downloaded
    command += ["--disable-pip-version-check", "-w", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("vit_jax-*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["pip says nothing"]
        raise LaunchError(f"--code=wheel: it could not be built: {lines[-1]}")
    return Code("", wheels[0], f"wheel of this checkout, {_revision(root)}")


def _revision(root: pathlib.Path) -> str:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except OSError:
        return "revision unknown"
    return f"revision {done.stdout.strip() or 'unknown'}"
