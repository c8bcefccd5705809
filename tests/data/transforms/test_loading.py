from __future__ import annotations

import numpy as np
import pytest

from detkit.data.datasets.coco import CocoDataset
from detkit.data.transforms.formatting import PackDetInputs
from detkit.data.transforms.loading import (
    LoadAnnotations,
    LoadImageFromFile,
    LoadImageFromNDArray,
    UnreadableImage,
    read_image,
)
from detkit.opencv import cv2
from detkit.registry import ConfigError
from detkit.structures import BitmapMasks, PolygonMasks


def test_broken_pictures_are_named_and_odd_ones_read(shared):
    folder = shared / 'data/bad/images'
    for name in ('zero_byte.jpg', 'text_named.jpg', 'truncated_header.jpg', 'truncated.jpg', 'not_there.jpg'):
        with pytest.raises(UnreadableImage, match=name):
            read_image(str(folder / name))
    for name in ('ok.jpg', 'truncated_no_eoi.jpg',
                 'png_named.jpg', 'jpeg_named.png', 'grey16.png', 'grey8.png', 'rgba.png', 'palette.png', 'bilevel.png',
                 'cmyk.jpg', 'one_pixel.png', 'name with spaces (1) é.jpg'):
        image = read_image(str(folder / name))
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


def test_cmyk_and_palettes_look_like_the_picture_they_were_made_from(shared):
    folder = shared / 'data/bad/images'
    upright = read_image(str(folder / 'exif_upright.jpg')).astype(int)
    for name in ('cmyk.jpg', 'palette.png', 'rgba.png', 'exif_orientation3.jpg', 'exif_orientation5.jpg'):
        assert np.abs(read_image(str(folder / name)) - upright).mean() < 6


def test_sixteen_bits_are_divided_stretched_or_cut_to_a_range(shared):
    path = str(shared / 'data/bad/images/grey16.png')
    divided, stretched, cut = (LoadImageFromFile(depth=d)(dict(img_path=path))['img'] for d in ('divide', 'range', (0, 4095)))
    assert divided.max() < 20                                           # 12 bits of 16: black
    assert stretched.min() == 0 and stretched.max() == 255 and stretched.dtype == cut.dtype == np.uint8
    assert np.abs(cut.astype(float) - divided.astype(float) * 16).mean() < 9 and cut.shape == (150, 226, 3)
    upright = read_image(str(shared / 'data/bad/images/exif_upright.jpg'))
    assert np.corrcoef(cut.mean(-1).ravel(), upright.mean(-1).ravel())[0, 1] > 0.95
    plain = str(shared / 'data/bad/images/ok.jpg')
    assert (LoadImageFromFile(depth='range')(dict(img_path=plain))['img'] == read_image(plain)).all()      # eight bits stay
    for depth in ('half', (9, 3)):
        with pytest.raises(ConfigError, match='depth='):
            LoadImageFromFile(depth=depth)


def test_transparent_pixels_show_the_background(shared):
    path = str(shared / 'data/bad/images/rgba.png')
    over = LoadImageFromFile(background=(0, 0, 255))(dict(img_path=path))['img'].astype(int)
    plain = read_image(path).astype(int)
    assert np.abs(over[:, 0] - (0, 0, 255)).max() <= 2 and np.abs(over[:, -1] - plain[:, -1]).max() <= 2
    ok = str(shared / 'data/bad/images/exif_orientation6.jpg')
    assert (LoadImageFromFile(background=(0, 0, 255))(dict(img_path=ok))['img'] == read_image(ok)).all()   # no alpha: EXIF still holds


def test_exif_orientation_is_applied_unless_asked_not_to(shared):
    folder = shared / 'data/bad/images'
    assert read_image(str(folder / 'exif_orientation6.jpg')).shape == read_image(str(folder / 'exif_upright.jpg')).shape == (150, 226, 3)
    assert read_image(str(folder / 'exif_orientation6.jpg'), 'color_ignore_orientation').shape == (226, 150, 3)


def test_loading_writes_sizes_and_can_skip(coco):
    out = LoadImageFromFile()(dict(img_path=str(coco / 'images/5.png')))
    assert out['img'].shape == (64, 48, 3) and out['img_shape'] == out['ori_shape'] == (64, 48)
    assert LoadImageFromFile(to_float32=True)(dict(img_path=str(coco / 'images/5.png')))['img'].dtype == np.float32
    assert LoadImageFromFile(ignore_empty=True)(dict(img_path=str(coco / 'nothing.png'))) is None
    assert LoadImageFromNDArray()(dict(img=np.zeros((4, 6, 3), np.uint8)))['ori_shape'] == (4, 6)
    assert LoadImageFromNDArray(color_type='grayscale', backend_args=None)(dict(img=np.zeros((4, 6), np.uint8)))['ori_shape'] == (4, 6)
    with pytest.raises(TypeError, match='colour_type'):
        LoadImageFromNDArray(colour_type='grayscale')


INSTANCES = [dict(bbox=[1, 2, 5, 8], bbox_label=3, ignore_flag=0, mask=[[1, 2, 5, 2, 5, 8, 1, 8]]),
             dict(bbox=[0, 0, 4, 4], bbox_label=1, ignore_flag=1, mask=dict(size=[10, 12], counts=[0, 4, 116])),
             dict(bbox=[0, 0, 2, 2], bbox_label=0, ignore_flag=0, mask=[[1, 1, 2, 2]])]


def test_annotations_become_arrays_and_masks_of_the_original_size():
    base = dict(instances=INSTANCES, ori_shape=(10, 12), img_shape=(10, 12))
    out = LoadAnnotations(with_mask=True)(dict(base))
    assert out['gt_bboxes'].tolist() == [[1, 2, 5, 8], [0, 0, 4, 4], [0, 0, 2, 2]] and out['gt_bboxes'].dtype == np.float32
    assert out['gt_bboxes_labels'].tolist() == [3, 1, 0]
    assert out['gt_ignore_flags'].tolist() == [False, True, True]         # a polygon of two points is no mask
    assert isinstance(out['gt_masks'], BitmapMasks) and out['gt_masks'].areas.tolist() == [24, 4, 0]
    polygons = LoadAnnotations(with_mask=True, poly2mask=False)(dict(base))
    assert isinstance(polygons['gt_masks'], PolygonMasks) and polygons['gt_masks'].areas[0] == 24
    assert polygons['gt_ignore_flags'].tolist() == [False, True, True]


@pytest.mark.parametrize('options,expected', [
    ({}, [0, 1, 2, 100, 254, 255]), (dict(reduce_zero_label=True), [255, 0, 1, 99, 253, 255]),
    (dict(reduce_zero_label=True, ignore_index=100), [100, 0, 1, 100, 253, 254]), (dict(ignore_index=100), [0, 1, 2, 100, 254, 255])])
def test_labels_of_a_map_are_those_of_mmdetection(tmp_path, options, expected):
    """Recorded from MMDetection 3.3.0."""
    path = str(tmp_path / 'map.png')
    cv2.imwrite(path, np.array([[0, 1, 2, 100, 254, 255]], np.uint8))
    results = dict(instances=[], ori_shape=(1, 6), seg_map_path=path, img=np.zeros((1, 6, 3), np.uint8))
    out = LoadAnnotations(with_seg=True, **options)(dict(results))
    assert out['gt_seg_map'].tolist() == [expected] and out['gt_seg_map'].dtype == np.uint8
    packed = PackDetInputs()(out)['data_samples'].gt_sem_seg
    assert packed.sem_seg.tolist() == [[expected]] and packed.ignore_index == options.get('ignore_index', 255)
    renamed = LoadAnnotations(with_seg=True)(dict(results, label_map={1: 2, 2: 1}))
    assert renamed['gt_seg_map'].tolist() == [[0, 2, 1, 100, 254, 255]]


def test_a_sample_without_a_map_gets_none():
    assert 'gt_seg_map' not in LoadAnnotations(with_seg=True)(dict(instances=[], ori_shape=(1, 6), seg_map_path=None))


@pytest.mark.parametrize('left_out', [('gt_bboxes',), ('gt_bboxes', 'gt_masks'), ('gt_bboxes', 'gt_bboxes_labels'), ('gt_masks',)])
@pytest.mark.parametrize('flags', [True, False])
def test_packing_keeps_all_objects_whatever_is_known_of_them(left_out, flags):
    results = LoadAnnotations(with_mask=True)(dict(instances=INSTANCES, ori_shape=(10, 12), img=np.zeros((10, 12, 3), np.uint8)))
    for key in left_out + (() if flags else ('gt_ignore_flags',)):
        del results[key]
    sample = PackDetInputs()(results)['data_samples']
    assert (len(sample.gt_instances), len(sample.ignored_instances)) == ((1, 2) if flags else (3, 0))
    assert len(sample.gt_instances.keys()) == 3 - len(left_out)


def test_labels_alone_are_all_kept():
    out = LoadAnnotations(with_bbox=False)(dict(instances=INSTANCES, ori_shape=(10, 12), img=np.zeros((10, 12, 3), np.uint8)))
    assert PackDetInputs()(out)['data_samples'].gt_instances.labels.tolist() == [3, 1, 0]     # as in MMDetection, which has no flags then


def test_run_lengths_become_polygons_if_those_are_asked_for():
    mask = dict(size=[10, 12], counts=[22, 6, 4, 6, 82])                 # columns 2 and 3, rows 2 to 7
    out = LoadAnnotations(with_mask=True, poly2mask=False)(dict(
        instances=[dict(bbox=[2, 2, 4, 8], bbox_label=0, mask=mask)], ori_shape=(10, 12)))
    assert out['gt_ignore_flags'].tolist() == [False]
    assert out['gt_masks'].get_bboxes().tolist() == [[2, 2, 4, 8]]
    assert out['gt_masks'].to_ndarray().sum() == out['gt_masks'].areas[0] == 12


@pytest.mark.parametrize('mask', [
    dict(size=[12, 10], counts=[0, 4, 116]), dict(size=[10, 12], counts='~~'), [[1, 2, float('nan'), 2, 5, 8]], [[1, 2, 1e9, 2, 5, 8]],
    [[1, 2, 5, 2, 5]], None, {}], ids=['other size', 'no run lengths', 'nan', 'far away', 'odd', 'none', 'empty'])
def test_a_mask_that_cannot_be_drawn_makes_its_object_ignored(mask):
    results = dict(instances=[dict(bbox=[1, 2, 5, 8], bbox_label=0, mask=mask)], ori_shape=(10, 12))
    out = LoadAnnotations(with_mask=True)(dict(results))
    assert out['gt_ignore_flags'].tolist() == [True] and out['gt_masks'].masks.shape == (1, 10, 12) and not out['gt_masks'].masks.any()
    assert LoadAnnotations(with_mask=True, poly2mask=False)(dict(results))['gt_ignore_flags'].tolist() == [True]


def test_a_broken_polygon_does_not_take_the_sound_ones_with_it():
    mask = [[1, 2, 5, 2, 5, 8, 1, 8], [0, 0, float('inf'), 1, 2, 2]]
    results = dict(instances=[dict(bbox=[1, 2, 5, 8], bbox_label=0, mask=mask)], ori_shape=(10, 12))
    out = LoadAnnotations(with_mask=True)(results)
    assert out['gt_ignore_flags'].tolist() == [False] and out['gt_masks'].areas.tolist() == [24]


def test_packing_splits_ignored_objects_and_keeps_what_is_asked_for():
    results = LoadAnnotations(with_mask=True)(dict(instances=INSTANCES, ori_shape=(10, 12), img_shape=(10, 12), img_id=7))
    results.update(img=np.arange(360, dtype=np.uint8).reshape(10, 12, 3), rng=np.random.default_rng(0))
    packed = PackDetInputs(meta_keys=('img_id', 'ori_shape', 'flip'))(results)
    sample = packed['data_samples']
    assert packed['inputs'].shape == (3, 10, 12) and packed['inputs'][1, 0, 0] == 1
    assert sample.gt_instances.labels.tolist() == [3] and sample.ignored_instances.labels.tolist() == [1, 0]
    assert sample.gt_instances.bboxes.dtype.is_floating_point and len(sample.gt_instances.masks) == 1
    assert sample.img_id == 7 and 'flip' not in sample and isinstance(sample.seed, int)


def test_packing_without_annotations_gives_empty_instances():
    sample = PackDetInputs()(dict(img=np.zeros((4, 4, 3), np.uint8)))['data_samples']
    assert len(sample.gt_instances) == len(sample.ignored_instances) == 0


@pytest.mark.parametrize('make,message', [
    (lambda: LoadImageFromFile(backend_args=dict(backend='petrel')), "backend='petrel'"),
    (lambda: LoadImageFromFile(imdecode_backend='turbojpeg'), "imdecode_backend='turbojpeg'"),
    (lambda: LoadImageFromFile(color_type='sepia'), "color_type='sepia'"), (lambda: LoadAnnotations(box_type='rbox'), "box_type='rbox'"),
    (lambda: LoadAnnotations(ignore_index=256), 'ignore_index=256 must be a whole number')])
def test_what_is_not_offered_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize('before,after,scale', [
    ([], [], (1., 1.)), ([dict(type='Resize', scale=(32, 96))], [], (1., 1.)), ([], [dict(type='Resize', scale=(32, 96))], (0.5, 2.)),
    ([dict(type='Resize', scale=(128, 96))], [dict(type='Resize', scale=(32, 96)), dict(type='Pad', size=(99, 99))], (0.25, 1.)),
    ([], [dict(type='RandomFlip', prob=1.0)], None), ([dict(type='RandomFlip', prob=1.0)], [], (1., 1.)),
    ([], [dict(type='RandomCrop', crop_size=(20, 20), allow_negative_crop=True)], None)])
def test_a_sample_says_by_how_much_its_boxes_were_scaled(coco, before, after, scale):
    data = CocoDataset(data_root=str(coco), ann_file='a.json', data_prefix=dict(img='images/'), metainfo=dict(classes=('cat', 'dog')),
                       pipeline=[dict(type='LoadImageFromFile'), *before, dict(type='LoadAnnotations'), *after, dict(type='PackDetInputs')])
    assert data[0]['data_samples'].get('gt_scale') == (None if scale is None else pytest.approx(scale))


def test_pillow_reads_and_resizes_where_a_config_asks_for_it(shared):
    from detkit.data.transforms.geometry import Resize
    folder = shared / 'data/bad/images'
    load = LoadImageFromFile(imdecode_backend='pillow')
    for name in ('ok.jpg', 'exif_orientation6.jpg', 'grey8.png', 'palette.png'):
        one, two = load(dict(img_path=str(folder / name)))['img'], read_image(str(folder / name))
        assert one.shape == two.shape and np.abs(one.astype(int) - two).max() <= 3
    with pytest.raises(UnreadableImage, match='zero_byte'):
        load(dict(img_path=str(folder / 'zero_byte.jpg')))
    with pytest.raises(UnreadableImage, match='huge.*'):
        load(dict(img_path=str(folder / 'huge_20000x20000.png')))
    with pytest.raises(ConfigError, match='pillow.*unchanged'):
        LoadImageFromFile(imdecode_backend='pillow', color_type='unchanged')
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 240
    small = Resize(scale=(2, 2), backend='pillow')(dict(img=step))['img']
    assert small.shape == (2, 2, 3) and small[0, 0, 0] > 0                  # smoothed over its neighbours; OpenCV's is 0
    assert Resize(scale=(2, 2))(dict(img=step))['img'][0, 0, 0] == 0
    with pytest.raises(ConfigError, match='pillow with nearest'):
        Resize(scale=(2, 2), backend='pillow', interpolation='area')
