"""The notebook is stored without outputs, and runs from beginning to end."""

import json
import re

import pytest

from tests.docs import pages

FILE = pages.ROOT / "docs" / "notebooks" / "digits.ipynb"


def cells():
    found = json.loads(FILE.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_it_is_stored_without_outputs_and_parses():
    assert len(cells()) > 8
    for cell in cells():
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        compile("".join(cell["source"]), cell["id"], "exec")


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("PYTHONPATH", str(pages.ROOT))
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(FILE, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    said = "".join(out["text"] for out in outputs if out.output_type == "stream")
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 5
    accuracy = re.search(r"^accuracy ([\d.]+) of 360 images$", said, re.M)
    assert accuracy is not None, said
    assert float(accuracy[1]) > 0.9
    measured = re.search(r"'val/accuracy': ([\d.]+)", said)
    assert measured is not None, said
    assert float(measured[1]) == pytest.approx(float(accuracy[1]), abs=1 / 360)
    assert "did you mean 'model.width'?" in said
    assert (tmp_path / "runs" / "notebook-timm" / "model.safetensors").is_file()
