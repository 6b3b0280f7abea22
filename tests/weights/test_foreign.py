"""Libraries that written weights are compared with, where they do not fit each other."""

import sys
import types

import pytest

from vit_jax.weights import foreign


@pytest.mark.parametrize(
    ("message", "works"),
    [("operator torchvision::nms does not exist", True), ("no CUDA driver", False)],
)
def test_a_torchvision_built_for_another_torch_is_imported(
    message, works, tmp_path, monkeypatch
):
    """Its operators are declared, where these are what is missing."""
    torch = types.ModuleType("torch")
    declared = vars(torch)["declared"] = []
    library = types.SimpleNamespace(define=lambda text: declared.append(text[:4]))
    vars(torch)["library"] = types.SimpleNamespace(Library=lambda *_: library)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    file = tmp_path / "torchvision.py"
    file.write_text(
        f"import torch\nif not torch.declared: raise RuntimeError({message!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    if works:
        foreign.import_torchvision(torch)
        assert declared == ["nms(", "qnms"]
        assert sys.modules["torchvision"].__file__ == str(file)
    else:
        with pytest.raises(foreign.NotChecked, match=message):
            foreign.import_torchvision(torch)
        assert not declared


def test_without_torchvision_nothing_happens(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    foreign.import_torchvision(types.ModuleType("torch"))
