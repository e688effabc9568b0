"""Runs the notebooks from the top and keeps what they show.

    python examples/run_notebooks.py

Needs nbclient, nbformat and ipykernel beside the notebooks' own extras.
"""

import tempfile
from pathlib import Path

import nbclient
import nbformat


def run(path: Path) -> None:
    """A notebook in a folder of its own; of a picture in two forms the smaller stays."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=900, resources=resources, record_timing=False).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            pictures = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
            for kind in sorted(pictures, key=lambda kind: len(output.data[kind]))[1:]:
                del output.data[kind]
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        print(path.name)
        run(path)
