"""A TPU pod's metadata server, played on the loopback address."""

import contextlib
import http.server
import threading

import pytest

from vit_jax.cluster import resolve, variables

POD = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "unknown:unknown:10.0.0.1,unknown:unknown:10.0.0.2",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_NUM_SLICES: ''\n",
}
SLICE = POD | {
    "worker-network-endpoints": "t-0,t-1",
    "tpu-env": "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
    "MEGASCALE_COORDINATOR_ADDRESS: '10.9.0.1:8080'\nNODE_ID: 'x'\n",
}


@contextlib.contextmanager
def server(attributes):
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            good = self.headers["Metadata-Flavor"] == "Google" and name in attributes
            self.send_response(200 if good else 404)
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode() if good else b"")

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield {"GCE_METADATA_IP": f"127.0.0.1:{served.server_port}"}
        served.shutdown()
        thread.join()


def on_tpu():
    return True


@pytest.mark.parametrize(
    ("attributes", "place"),
    [
        (POD, ("10.0.0.1:8482", 2, 1)),
        (SLICE, ("10.9.0.1:8482", 4, 3)),
    ],
)
def test_a_pod(attributes, place):
    with server(attributes) as environ:
        found = variables(environ, has_tpu=on_tpu)
    cluster = resolve(None, None, None, found)
    assert (cluster.coordinator, cluster.num_processes, cluster.process_id) == place


def test_a_machine_outside_a_pod():
    with server({}) as environ:
        assert variables(environ, has_tpu=on_tpu) == {}
    assert variables(environ, has_tpu=on_tpu) == {}  # nobody answers


@pytest.mark.parametrize(
    "environ",
    [
        {"JAX_PLATFORMS": "cpu"},
        {"TPU_SKIP_MDS_QUERY": "1"},
        {"TPU_WORKER_HOSTNAMES": "t-0,t-1"},
    ],
)
def test_it_is_asked_only_where_nothing_is_said(environ):
    with server(POD) as address:
        assert variables(address | environ, has_tpu=on_tpu) == {}
        assert variables(address, has_tpu=lambda: False) == {}
