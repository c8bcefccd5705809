"""What ``--out`` writes, and what is said about it."""
from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData

from detkit.evaluation.dump import DumpDetResults
from detkit.structures import DetDataSample


def sample() -> DetDataSample:
    found = InstanceData(bboxes=torch.tensor([[1., 2., 3., 4.]]), scores=torch.tensor([0.5]), labels=torch.tensor([2]))
    return DetDataSample(metainfo=dict(img_id=7, img_path='a.jpg'), pred_instances=found, gt_instances=InstanceData())


@pytest.mark.parametrize('name', ['found.json', 'found.pkl'])
def test_the_file_is_written_and_named_without_a_warning(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture):
    messages: list[str] = []
    monkeypatch.setattr(MMLogger, 'info', lambda self, message, *args: messages.append(message))
    monkeypatch.setattr(MMLogger, 'warning', lambda self, message, *args: messages.append(message))
    evaluator = Evaluator([DumpDetResults(str(tmp_path / name))])
    evaluator.process(data_samples=[sample()])
    assert evaluator.evaluate(1) == {}
    assert messages == [f'detections of 1 images written to {tmp_path / name}'] and 'prefix' not in capsys.readouterr().out
    if name.endswith('.json'):
        assert json.loads((tmp_path / name).read_text()) == [
            dict(img_id=7, img_path='a.jpg', bboxes=[[1., 2., 3., 4.]], scores=[0.5], labels=[2])]
    else:
        with open(tmp_path / name, 'rb') as file:
            (one,) = pickle.load(file)
        assert one['pred_instances']['bboxes'].tolist() == [[1., 2., 3., 4.]] and 'gt_instances' not in one
