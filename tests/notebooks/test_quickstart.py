"""The notebook runs from top to bottom, on less data, and is committed without outputs."""
from __future__ import annotations

import nbformat
import pytest

NAME = 'notebooks/00_quickstart.ipynb'


@pytest.fixture
def notebook(root):
    return nbformat.read(root / NAME, as_version=4)


def test_the_notebook_is_committed_without_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)
    text = ''.join(cell.source for cell in notebook.cells)
    assert '/home/' not in text and '/tmp' not in text


def test_the_quickstart_trains_draws_and_measures(notebook, root, tmp_path, monkeypatch):
    from nbclient import NotebookClient
    monkeypatch.setenv('DETKIT_NOTEBOOK_QUICK', '1')
    monkeypatch.setenv('PYTHONPATH', str(root))      # also where the package is not installed
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    client = NotebookClient(notebook, timeout=300, kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}})
    client.execute()
    shown = [out for cell in notebook.cells for out in cell.get('outputs', []) if 'image/png' in out.get('data', {})]
    assert len(shown) == 5                           # a batch, the curves, three comparisons
    last = [cell for cell in notebook.cells if cell.cell_type == 'code'][-1].outputs[-1]['data']['text/plain']
    assert 'coco/bbox_mAP' in last and 'coco/star_precision' in last
    assert list((tmp_path / 'work_dirs' / 'notebook_quickstart').glob('best_*.pth'))
