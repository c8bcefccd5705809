"""init_detector and inference_detector."""
from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from mmengine.config import Config

from detkit.apis import inference_detector, init_detector
from detkit.engine.checkpoint import write_checkpoint
from detkit.inference.detector import autocast, checked_device, config_of_checkpoint, dataset_meta
from detkit.registry import ConfigError


@pytest.fixture
def detector(config, checkpoint):
    return init_detector(config, checkpoint, device='cpu')


def test_a_detector_knows_config_and_classes_and_is_in_evaluation_mode(detector, config):
    assert detector.dataset_meta['classes'] == ('pale', 'white')
    assert detector.cfg.filename == str(config) and not detector.training
    assert detector.threshold.item() == 128


def test_boxes_come_in_pixels_of_the_original_image(detector, folder, rectangle):
    found = inference_detector(detector, folder / '0.png')
    assert found.pred_instances.bboxes.tolist() == [[10., 20., 42., 52.]]
    assert found.pred_instances.labels.tolist() == [1] and found.ori_shape == (64, 64) and found.img_shape == (128, 128)
    same = inference_detector(detector, rectangle())
    assert same.pred_instances.bboxes.tolist() == [[10., 20., 42., 52.]]


def test_a_list_gives_a_list(detector, folder, rectangle):
    found = inference_detector(detector, [str(folder / '1.png'), rectangle(), np.zeros((50, 70, 3), np.uint8)])
    assert [f.pred_instances.labels.tolist() for f in found] == [[0], [1], []]
    assert inference_detector(detector, []) == []
    assert [len(f.pred_instances) for f in inference_detector(detector, (p for p in sorted(folder.iterdir())))] == [1, 1, 1]
    assert [len(f.pred_instances) for f in inference_detector(detector, np.stack([rectangle()] * 2))] == [1, 1]


def test_a_test_pipeline_of_ones_own_is_used(detector, folder):
    seen = []

    def pipeline(results):
        from detkit.inference.pipeline import InferencePipeline
        seen.append(results)
        return InferencePipeline(detector.cfg.test_dataloader.dataset)(results['img_path'])[0]

    assert len(inference_detector(detector, str(folder / '0.png'), test_pipeline=pipeline).pred_instances) == 1
    assert seen[0]['img_path'] == str(folder / '0.png')


def test_a_test_pipeline_may_be_a_list_of_steps_and_gets_images_in_memory_as_arrays(detector, folder, rectangle):
    steps = list(detector.cfg.test_dataloader.dataset.pipeline)
    assert inference_detector(detector, folder / '0.png', test_pipeline=steps).pred_instances.bboxes.tolist() == [[10., 20., 42., 52.]]
    seen = []

    def pipeline(results):
        from detkit.inference.pipeline import InferencePipeline
        seen.append(results['img'])
        return InferencePipeline(detector.cfg.test_dataloader.dataset)(results['img'])[0]

    inference_detector(detector, [rectangle()[..., 0], (folder / '0.png').read_bytes()], test_pipeline=pipeline)
    assert all((image == rectangle()).all() for image in seen) and len(seen) == 2


def test_a_checkpoint_in_the_place_of_the_config_brings_its_config(config, checkpoint, folder):
    alone = init_detector(checkpoint, device='cpu')
    assert inference_detector(alone, folder / '0.png').pred_instances.bboxes.tolist() == [[10., 20., 42., 52.]]
    with pytest.raises(ValueError, match='is a checkpoint and stands in the place of the config: give the config first'):
        init_detector(str(checkpoint), str(config), device='cpu')
    with pytest.raises(ValueError, match='are both checkpoints'):
        init_detector(checkpoint, checkpoint, device='cpu')


def test_a_model_that_was_not_made_by_init_detector_is_refused(detector, folder):
    del detector.cfg
    with pytest.raises(ValueError, match='BrightRectangles has no .cfg, .* Make it with init_detector'):
        inference_detector(detector, folder / '0.png')


def test_another_number_of_channels_than_the_models_is_named(detector, rectangle):
    detector.data_preprocessor.register_buffer('mean', torch.zeros(1, 1, 1))
    with pytest.raises(ValueError, match=r"has 3 channels after the test pipeline, and the model takes 1 .*color_type='grayscale'"):
        inference_detector(detector, rectangle())


def test_options_replace_settings_and_the_config_stays_as_it_was(config, checkpoint, folder):
    cfg = Config.fromfile(str(config))
    before = cfg.pretty_text
    options = {'test_dataloader.dataset.metainfo.classes': ('a', 'b')}
    model = init_detector(cfg, checkpoint, device='cpu', cfg_options=options)
    assert model.cfg.test_dataloader.dataset.metainfo.classes == ('a', 'b') and cfg.pretty_text == before


def test_without_a_checkpoint_a_warning_says_so(config):
    with pytest.warns(UserWarning, match='the weights are random'):
        assert init_detector(config, device='cpu').dataset_meta['classes'] == ('pale', 'white')


@pytest.mark.parametrize(('meta', 'dataset', 'classes'), [
    ({'dataset_meta': {'CLASSES': ('x',)}}, {'metainfo': {'classes': ('y',)}}, ('x',)),
    ({'CLASSES': ('x',)}, {}, ('x',)),                                        # MMDetection 2
    ({}, {'metainfo': {'classes': ('y',)}}, ('y',)),
    ({}, {'type': 'RepeatDataset', 'times': 2, 'dataset': {'metainfo': {'classes': ('z',)}}}, ('z',)),
])
def test_class_names_come_from_the_checkpoint_then_the_config(meta, dataset, classes):
    cfg = Config({'test_dataloader': {'dataset': dataset}})
    assert dataset_meta(cfg, meta)['classes'] == classes


def test_a_config_that_names_other_classes_than_the_checkpoint_is_told():
    cfg = Config({'test_dataloader': {'dataset': {'metainfo': {'classes': ('b', 'a')}}}})
    with pytest.warns(UserWarning, match="label 0 is 'a' in the checkpoint and 'b' in the config. The checkpoint's are used"):
        assert dataset_meta(cfg, {'dataset_meta': {'classes': ('a', 'b')}})['classes'] == ('a', 'b')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert dataset_meta(cfg, {'CLASSES': ('b', 'a')})['classes'] == ('b', 'a')


def test_class_names_come_last_from_the_data_sets_type():
    known = dataset_meta(Config({'val_dataloader': {'dataset': {'type': 'CocoDataset'}}}), {})
    assert len(known['classes']) == 80 and known['classes'][0] == 'person' and len(known['palette']) == 80
    again = dataset_meta(Config({'val_dataloader': {'dataset': {'type': 'CocoDataset'}}}), {'CLASSES': ('x',)})
    assert again['classes'] == ('x',) and again['palette'] is None          # 80 colours for one class would be wrong
    assert dataset_meta(Config({}), {'CLASSES': ('x',)}, palette='red')['palette'] == 'red'
    with pytest.warns(UserWarning, match='what the classes are called'):
        assert dataset_meta(Config({}), {})['classes'] == ()


def test_a_checkpoint_of_another_architecture_is_refused_by_name(config, tmp_path):
    write_checkpoint({'state_dict': {'backbone.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    with pytest.raises(ConfigError, match="other.pth' does not fit this model"):
        init_detector(config, tmp_path / 'other.pth', device='cpu')


def test_the_config_in_a_checkpoint_is_read_as_data(checkpoint, tmp_path):
    cfg = config_of_checkpoint(checkpoint)
    assert cfg.model.type == 'BrightRectangles' and cfg.test_dataloader.dataset.pipeline[1].scale == (128, 128)
    code = "import os\nmodel = dict(type=os.system('touch ran'))\n"
    write_checkpoint({'state_dict': {'a': torch.zeros(1)}, 'meta': {'cfg': code}}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match="evil.pth' holds more than plain values"):
        config_of_checkpoint(tmp_path / 'evil.pth')
    write_checkpoint({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'bare.pth')
    with pytest.raises(ValueError, match="bare.pth' does not carry its config"):
        config_of_checkpoint(tmp_path / 'bare.pth')


def test_devices():
    assert checked_device('cpu') == torch.device('cpu')
    assert checked_device(None).type == ('cuda' if torch.cuda.is_available() else 'cpu')
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used"):
        checked_device('cuda:99')
    with pytest.raises(ValueError, match="device 'gpu' cannot be used"):
        checked_device('gpu')
    with pytest.raises(ValueError, match="device '1.5' cannot be used"):
        checked_device(1.5)


def test_precisions():
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    for precision, dtype in (('fp32', torch.float32), ('bf16', torch.bfloat16)):
        with autocast('cpu', precision):
            assert layer(x).dtype == dtype
    for precision, words in (('int8', "precision is 'int8'"), ('fp16', 'needs a GPU')):
        with pytest.raises(ValueError, match=words), autocast('cpu', precision):
            pass


def test_prompts_and_what_is_no_image_are_refused(detector, shared, tmp_path):
    with pytest.raises(ValueError, match='BrightRectangles .* takes no text prompt'):
        inference_detector(detector, 'a.jpg', text_prompt='a cat')
    with pytest.raises(ValueError, match='no image .*nowhere.jpg'):
        inference_detector(detector, tmp_path / 'nowhere.jpg')
    with pytest.raises(ValueError, match='float32, has -1 to'):
        inference_detector(detector, np.full((4, 4, 3), -np.eye(3, dtype=np.float32)[0]))
    with pytest.raises(ValueError, match='is a folder and no image. DetInferencer takes folders'):
        inference_detector(detector, tmp_path)
    with pytest.raises(ValueError, match='and not a dict'):
        inference_detector(detector, {'img': 'a.jpg'})
    with pytest.raises(ValueError, match='and not int'):
        inference_detector(detector, ['a.jpg', 3][1:])
    (tmp_path / 'a.mp4').write_bytes(b'x')
    with pytest.raises(ValueError, match="cannot read the image '.*a.mp4'.* DetInferencer takes videos"):
        inference_detector(detector, tmp_path / 'a.mp4')
    for name in ('zero_byte.jpg', 'text_named.jpg', 'truncated_header.jpg'):
        with pytest.raises(ValueError, match=f"cannot read the image '.*{name}'"):
            inference_detector(detector, shared / 'data' / 'bad' / 'images' / name)
