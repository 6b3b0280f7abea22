"""YAML as people would write it: keys in order, scripts as blocks."""

import functools
from collections.abc import Sequence
from typing import Any


@functools.cache
def _dumper() -> Any:
    """Indents lists, never refers back to an object, writes scripts as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False):
            return super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper


def dump(*documents: Any, comment: str) -> str:
    """Documents below a comment."""
    import yaml

    texts = [
        yaml.dump(one, Dumper=_dumper(), sort_keys=False, width=1000)
        for one in documents
    ]
    return f"# {comment}\n" + "---\n".join(texts)


def load(text: str) -> Sequence[Any]:
    """What a file's documents say."""
    import yaml

    return list(yaml.safe_load_all(text))
