"""What the hook draws lies on the objects, and no picture replaces another."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image

from detkit.data.original import as_bgr, load_original
from detkit.engine.hooks.visualization import DetVisualizationHook
from detkit.registry import DATASETS, VISUALIZERS, ConfigError

HEIGHT, WIDTH = 100, 160
BOX = (20, 10, 60, 40)                      # x1, y1, x2, y2 of the one object
RED, BLUE = (255, 0, 0), (0, 0, 255)
RESIZE = dict(type='Resize', scale=(80, 80), keep_ratio=True)
BOXES, PACK = dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')


def pixels(dtype: type = np.uint8, top: int = 200) -> np.ndarray:
    """A dark image with one bright rectangle."""
    image = np.full((HEIGHT, WIDTH), top // 10, dtype)
    image[BOX[1]:BOX[3], BOX[0]:BOX[2]] = top
    return image


def dataset(folder: Path, names: list[str], load: dict | None = None, steps: list[dict] | None = None, mask: bool = False) -> object:
    images = [dict(id=i, file_name=name, width=WIDTH, height=HEIGHT) for i, name in enumerate(names, 1)]
    x1, y1, x2, y2 = BOX
    objects = [dict(id=i['id'], image_id=i['id'], category_id=1, bbox=[x1, y1, x2 - x1, y2 - y1], area=1200, iscrowd=0,
                    segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]]) for i in images]
    (folder / 'ann.json').write_text(json.dumps(dict(images=images, annotations=objects, categories=[dict(id=1, name='thing')])))
    pipeline = [load or dict(type='LoadImageFromFile'), *(steps or [RESIZE, BOXES, PACK])]
    return DATASETS.build(dict(type='CocoDataset', ann_file=str(folder / 'ann.json'), data_prefix=dict(img=f'{folder}/'), test_mode=True,
                               metainfo=dict(classes=('thing',)), pipeline=pipeline))


def run(data: object, folder: Path, request: pytest.FixtureRequest, **options: object) -> Path:
    """Test ``data`` with a detector that finds the object, and return the folder of pictures."""
    visualizer = VISUALIZERS.build(dict(type='DetLocalVisualizer', name=f'{request.node.name}{len(list(folder.iterdir()))}', line_width=1,
                                        save_dir=str(folder / 'backend'), vis_backends=[dict(type='LocalVisBackend')]))
    visualizer.dataset_meta = dict(classes=('thing',), palette=[RED])
    loader = SimpleNamespace(dataset=data)
    runner = SimpleNamespace(visualizer=visualizer, test_dataloader=loader, val_dataloader=loader, log_dir=str(folder), iter=7,
                             _train_loop=object())
    hook = DetVisualizationHook(draw=True, interval=1, test_out_dir=str(folder / 'shown'), **options)
    hook.before_test(runner)
    for index in range(len(data)):
        sample = data[index]['data_samples']
        sample.pred_instances = InstanceData(bboxes=torch.tensor([BOX], dtype=torch.float32), labels=torch.tensor([0]),
                                             scores=torch.tensor([0.9]))
        hook.after_test_iter(runner, index, outputs=[sample])
        hook.after_val_iter(runner, index, outputs=[sample])
    return folder / 'shown'


def check_boxes(path: Path, bright: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """Truth and detection are drawn along the border of the rectangle: its last pixels are red, those further in are bright."""
    picture = cv2.imread(str(path))[..., ::-1].astype(int)
    height, width = shape
    bar = picture.shape[0] - height
    assert picture.shape[1] == 2 * width + 8
    for left in (0, width + 8):
        for x, y in ((BOX[0], 30), (BOX[2] - 1, 30), (50, BOX[3] - 1)):
            assert np.abs(picture[bar + y, left + x] - RED).max() < 60, (left, x, y, picture[bar + y, left + x])
        for x, y in ((BOX[0] + 3, 30), (BOX[2] - 4, 30), (50, BOX[3] - 4)):
            assert np.abs(picture[bar + y, left + x] - bright).max() < 25, (left, x, y, picture[bar + y, left + x])
        assert picture[bar + 70, left + 100].max() < bright / 4                  # dark outside


def test_boxes_lie_on_the_object_of_a_picture_that_exif_turns(tmp_path, request):
    upright = Image.fromarray(pixels())
    exif = Image.Exif()
    exif[0x0112] = 6                                                             # turn by 90 degrees to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / 'a.png', exif=exif)
    assert cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION).shape[:2] == (WIDTH, HEIGHT)
    check_boxes(run(dataset(tmp_path, ['a.png']), tmp_path, request) / 'a.png', 200)


def test_boxes_lie_on_the_object_where_the_loader_ignores_exif(tmp_path, request):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(tmp_path / 'a.png', exif=exif)
    data = dataset(tmp_path, ['a.png'], dict(type='LoadImageFromFile', color_type='color_ignore_orientation'))
    check_boxes(run(data, tmp_path, request) / 'a.png', 200)


def test_16_bits_are_drawn_as_the_data_set_reads_them(tmp_path, request):
    cv2.imwrite(str(tmp_path / 'a.png'), pixels(np.uint16, 4000))                # a sensor of 12 bits
    data = dataset(tmp_path, ['a.png'], dict(type='LoadImageFromFile', depth=(0, 4095)))
    check_boxes(run(data, tmp_path, request) / 'a.png', 249)


def test_boxes_lie_on_the_object_of_a_dicom_slice(tmp_path, request):
    pydicom = pytest.importorskip('pydicom', reason="needs pip install 'detkit[medical]'")
    from pydicom.data import get_testdata_file
    found = pydicom.dcmread(get_testdata_file('CT_small.dcm', download=False))
    found.Rows, found.Columns, found.RescaleIntercept, found.RescaleSlope = HEIGHT, WIDTH, -1000, 1
    found.PixelData = pixels(np.int16, 1200).tobytes()                           # 200 HU in air of -880
    found.save_as(tmp_path / 'a.dcm')
    data = dataset(tmp_path, ['a.dcm'], dict(type='LoadDICOM', window=(0, 400)))
    check_boxes(run(data, tmp_path, request) / 'a.dcm.png', 255)


@pytest.mark.parametrize('steps', [
    [BOXES, RESIZE, PACK],                                                       # boxes are scaled with the image
    [dict(BOXES, with_mask=True), RESIZE, dict(type='Pad', size_divisor=32), PACK],
    [BOXES, dict(type='RandomFlip', prob=1.), PACK],                             # moved: the data set's own boxes are drawn
], ids=['scaled', 'padded', 'flipped'])
def test_truth_is_drawn_in_pixels_of_the_original(tmp_path, request, steps):
    cv2.imwrite(str(tmp_path / 'a.png'), pixels())
    shown = run(dataset(tmp_path, ['a.png'], steps=steps), tmp_path, request) / 'a.png'
    if any(step.get('with_mask') for step in steps):
        picture = cv2.imread(str(shown))[..., ::-1].astype(int)
        bar = picture.shape[0] - HEIGHT
        assert picture[bar + 30, 40].tolist() == [228, 100, 100] and picture[bar + 30, 70].tolist() == [20, 20, 20]   # tinted by half
        return
    check_boxes(shown, 200)


def test_images_of_equal_names_give_a_picture_each(shared, tmp_path, request):
    trial = shared / 'trials' / 'result-names'
    shutil.copytree(trial / 'img', tmp_path / 'img')
    names = ['img/s1/a.jpg', 'img/s2/a.jpg', 'img/s2/a.png']
    shown = run(dataset(tmp_path, names, steps=[BOXES, PACK]), tmp_path, request)
    assert sorted(p.relative_to(shown).as_posix() for p in shown.rglob('*.*')) == ['s1/a.jpg', 's2/a.jpg', 's2/a.png']
    kept = sorted(p.name for p in (tmp_path / 'backend').rglob('*.png'))
    assert kept == ['val_s1_a_7.png', 'val_s2_a.jpg_7.png', 'val_s2_a.png_7.png']       # of validation, at iteration 7


def test_a_data_set_that_lists_nothing_has_its_pictures_numbered(tmp_path, request):
    cv2.imwrite(str(tmp_path / 'a.png'), pixels())
    data = list(dataset(tmp_path, ['a.png', 'a.png'], steps=[BOXES, PACK]))
    shown = run(data, tmp_path, request)
    assert sorted(p.name for p in shown.iterdir()) == ['00000000_a.png', '00000001_a.png']     # one picture for each img_id
    check_boxes(shown / '00000001_a.png', 200)


def test_parts_of_a_joined_set_are_read_by_their_own_pipelines(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), pixels(np.uint16, 4000))
    for folder in ('one', 'two'):
        (tmp_path / folder).mkdir()
        shutil.copy(tmp_path / 'a.png', tmp_path / folder)
    parts = [dataset(tmp_path / 'one', ['a.png']), dataset(tmp_path / 'two', ['a.png'], dict(type='LoadImageFromFile', depth='range'))]
    joined = DATASETS.build(dict(type='ConcatDataset', datasets=parts))
    assert load_original(joined, 0).max() == 15 and load_original(joined, 1).max() == 255
    repeated = DATASETS.build(dict(type='RepeatDataset', dataset=parts[1], times=2))
    assert load_original(repeated, 1).max() == 255


def test_a_pipeline_that_loads_nothing_is_named(tmp_path):
    with pytest.raises(ConfigError, match='no transform of the pipeline loads an image'):
        load_original(dataset(tmp_path, ['a.png'], load=BOXES, steps=[BOXES]), 0)


@pytest.mark.parametrize(('image', 'value'), [
    (np.full((4, 5), 7, np.uint8), 7), (np.full((4, 5, 1), 7, np.uint8), 7), (np.full((4, 5, 2), 7, np.uint8), 7),
    (np.full((4, 5, 6), 7, np.uint8), 7), (np.full((4, 5, 3), 257 * 9, np.uint16), 9), (np.full((4, 5, 3), 7.2, np.float32), 7),
    (np.full((4, 5, 3), 1., np.float32), 255), (np.array([[-1000., 1000.]] * 4), [0, 255])])
def test_whatever_a_loader_gives_can_be_drawn_on(image, value):
    found = as_bgr(image)
    assert found.dtype == np.uint8 and found.shape == (*image.shape[:2], 3)
    assert (found == np.reshape(value, (-1, 1))).all()
