"""A cell of a real notebook shows the page."""

import re
from html import unescape

import pytest

from render.pages import payload_of

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed: pip install nbclient ipykernel")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install ipykernel")

CELL = """
import initio
from torch import nn

initio.{call}(lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU()), "4x16")
"""


def test_the_last_expression_of_a_cell_shows_the_page(tmp_path):
    cells = [nbformat.v4.new_code_cell(CELL.format(call=call)) for call in ("analyze", "check")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    manager = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    manager.execute()
    for cell in notebook.cells:
        (shown,) = cell.outputs
        (frame,) = re.findall(r"<iframe [^>]*srcdoc=\"(.*)\"></iframe>", shown["data"]["text/html"], re.DOTALL)
        assert payload_of(unescape(frame))["modules"]["path"] == ["", "0", "1"]
        assert "modules" in shown["data"]["text/plain"] or "Report" in shown["data"]["text/plain"]
