"""`vit-jax`, counting what this process reads: `python -m tests.cluster.counted DIR ...`.

DIR gets a file for each process: ``[examples of the source, id, position]`` of each row
that was read, in any order.
"""

import json
import pathlib
import sys

import jax

from vit_jax import cli
from vit_jax.data.rows import RowLoader

if __name__ == "__main__":
    folder, arguments = pathlib.Path(sys.argv[1]), sys.argv[2:]
    read = []
    original = RowLoader.chunk

    def chunk(self, rows, out):
        read.extend((len(self.source), row.id, row.position) for row in rows)
        return original(self, rows, out)

    RowLoader.chunk = chunk
    code = cli.main(arguments)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{jax.process_index()}.json").write_text(json.dumps(read))
    sys.exit(code)
