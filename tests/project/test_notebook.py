"""docs/demo.ipynb, carried out from the first cell to the last."""

import csv
import io
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that run notebooks
def test_the_notebook_runs_and_shows_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the notebook's own folder is made in it
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "docs" / "demo.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored without outputs"
    NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": ROOT / "docs"}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    (row,) = csv.DictReader(io.StringIO(printed[printed.index("scene,path,") :].split("\n\n")[0]))
    assert row["status"] == "done"
    cloud, right = (float(re.search(rf"([\d.]+)% {what}", printed)[1]) for what in ("cloud", "of"))
    assert cloud == pytest.approx(100 * float(row["cloud_fraction"]), abs=0.06)
    assert right > 75
