"""The notebook of docs/examples runs from its first to its last cell with the mini models, and stores no output."""

import json

import pytest

from tests import ROOT
from tests.chat_server import chat_server, says

NOTEBOOK = ROOT / "docs/examples/quickstart.ipynb"
MODEL = "REWRITE = {}"  # of the notebook: the local language model, for which a server stands in


def test_the_notebook_stores_no_output_and_no_counts():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    source = "\n".join("".join(cell["source"]) for cell in cells)
    assert not [line for line in source.splitlines() if line.startswith(("!", "%"))], "no state of a shell"
    assert source.count(MODEL) == 1


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(NOTEBOOK, as_version=4)
    with chat_server(lambda request: says("no")) as server:
        for cell in book.cells:
            cell.source = cell.source.replace(
                MODEL, f'REWRITE = {{"server": "{server.url}", "model": "any", "retries": 0}}'
            )
        NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("hand gesture" in output.get("data", {}).get("text/plain", "") for output in outputs)
    assert (tmp_path / "notebook/judge.html").is_file()
