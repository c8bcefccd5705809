"""Images in memory reach the detector as the same file would."""
from __future__ import annotations

import io
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detkit.apis import DetInferencer, inference_detector, init_detector
from detkit.inference.pipeline import InferencePipeline
from detkit.inference.pixels import as_array, pil_array

PACK = dict(type='PackDetInputs')
BGR = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
GREY = cv2.cvtColor(BGR, cv2.COLOR_BGR2GRAY)
WHITE = [10., 20., 42., 52.]


def read(image, **loader) -> np.ndarray:
    """What the network gets, (height, width, channels)."""
    return InferencePipeline(dict(pipeline=[dict(type='LoadImageFromFile', **loader), PACK]))(image)[0]['inputs'].permute(1, 2, 0).numpy()


def png(image: np.ndarray) -> bytes:
    return cv2.imencode('.png', image)[1].tobytes()


@pytest.mark.parametrize('image', [
    BGR, np.dstack([BGR, np.full((12, 16), 200, np.uint8)]), BGR.astype(np.float32), BGR / 255., BGR.astype(np.int64),
    BGR.astype(np.uint16) * 256, torch.from_numpy(BGR[..., ::-1].copy()).permute(2, 0, 1),
    torch.from_numpy(BGR[..., ::-1].copy()).permute(2, 0, 1) / 255,
    Image.fromarray(BGR[..., ::-1]), Image.fromarray(BGR[..., ::-1]).convert('RGBA'), png(BGR), bytearray(png(BGR)), memoryview(png(BGR)),
    np.asfortranarray(BGR), BGR[::-1][::-1]])
def test_colours_arrive_in_bgr(image):
    assert (read(image) == BGR).all()
    assert np.abs(read(image, color_type='grayscale')[..., 0].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize('image', [
    GREY, GREY[..., None], GREY.astype(np.float32), torch.from_numpy(GREY), torch.from_numpy(GREY)[None], Image.fromarray(GREY),
    Image.fromarray(GREY).convert('LA'), np.dstack([GREY] * 3), png(GREY), Image.fromarray(GREY.astype(np.uint16) * 256),
    Image.fromarray(GREY.astype(np.int32)), Image.fromarray(GREY.astype(np.float32))])
def test_grey_images_reach_models_of_three_channels_and_of_one(image):
    assert (read(image) == GREY[..., None]).all() and read(image).shape == (12, 16, 3)
    assert np.abs(read(image, color_type='grayscale')[..., 0].astype(int) - GREY).max() <= 1
    assert read(image, color_type='grayscale').shape == (12, 16, 1)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'HSV', 'I', 'F'])
def test_pil_images_of_every_mode_can_be_read(mode):
    first = {'PA': 'P', 'La': 'LA', 'P': 'L', 'I': 'L', 'F': 'L', 'LA': 'L', '1': 'L', 'L': 'L'}.get(mode, 'RGB')
    picture = Image.fromarray(GREY).convert(first).convert('RGBA' if mode == 'RGBa' else first).convert(mode)
    expected = np.asarray(picture.convert('L')) if mode == '1' else GREY                    # dithered
    assert np.abs(read(picture).astype(int) - expected[..., None]).max() <= (mode == 'YCbCr')


def test_a_palette_with_transparency_keeps_its_colours_and_gets_the_loaders_background():
    picture = Image.fromarray(BGR[..., ::-1]).quantize(8)
    colours = np.asarray(picture.convert('RGB'))[..., ::-1]
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG', transparency=0)
    transparent = Image.open(buffer)
    assert (read(transparent) == colours).all() and (read(buffer.getvalue()) == colours).all()
    painted = read(transparent, background=(1, 2, 3))
    assert (painted == read(buffer.getvalue(), background=(1, 2, 3))).all() and ([1, 2, 3] == painted).all(2).any()


def test_exif_orientation_is_applied_unless_the_loader_ignores_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(BGR[..., ::-1]).save(buffer, 'PNG', exif=exif)
    turned = np.rot90(BGR, -1)
    for image in (Image.open(buffer), buffer.getvalue()):
        assert (read(image) == turned).all()
        assert (read(image, color_type='color_ignore_orientation') == BGR).all()


def test_16_bits_and_unchanged_images_follow_the_loader():
    deep = GREY.astype(np.uint16) * 16
    for image in (deep, Image.fromarray(deep), png(deep), torch.from_numpy(deep.astype(np.int32))):
        assert read(image, depth=(0, 4080)).tolist() == np.dstack([GREY] * 3).tolist()
        assert (read(image)[..., 0] == deep >> 8).all()
    many = np.zeros((12, 16, 6), np.uint8)
    assert read(many, color_type='unchanged').shape == (12, 16, 6)
    with pytest.raises(ValueError, match=r"of 6 channels, and the config's loading step \(color_type='color'\) gives 3"):
        read(many)


@pytest.mark.parametrize(('image', 'words'), [
    (np.full((4, 4, 3), 300.), 'float64, has 300 to 300. Give it before it is normalised'), (np.full((4, 4, 3), -1.), 'has -1 to -1'),
    (np.full((4, 4), np.nan), 'has nan to nan'), (np.full((4, 4), 70000), 'int64, has 70000'), (np.zeros((0, 4, 3), np.uint8), 'no image'),
    (np.zeros((4, 4, 3), complex), 'an array of complex128 is no image'), (torch.zeros(40, 40, 3), r'channels come last: .* image.numpy'),
    (torch.zeros(7), r'a tensor of shape \(7,\) is no image'),
    (torch.eye(4).to_sparse(), 'sparse, quantized or without data'), (torch.zeros(3, 4, 4, device='meta'), 'without data is no image'),
    (torch.quantize_per_tensor(torch.rand(3, 4, 4), .1, 0, torch.quint8), 'quantized'),
    (Image.new('RGB', (0, 4)), 'a PIL image of 0x4 pixels is empty'), (b'text', 'cannot read the image given as bytes'),
    (b'', 'the file is empty')])
def test_what_is_no_image_is_one_line(image, words):
    with pytest.raises(ValueError, match=words) as error:
        read(image)
    assert '\n' not in str(error.value)


def test_damaged_pil_images_and_odd_values_are_named():
    cut = Image.open(io.BytesIO(png(BGR)[:200]))
    with pytest.raises(ValueError, match='cannot read a PIL image of mode RGB'):
        pil_array(cut)
    assert as_array(np.array([[True, False]])).tolist() == [[255, 0]]
    assert as_array(torch.ones(3, 2, 2, dtype=torch.bfloat16)).max() == 255


@pytest.fixture
def slice_file(tmp_path):
    """A CT slice of 64 x 64 with the bright rectangle of the other images."""
    pydicom = pytest.importorskip('pydicom', reason="needs pip install 'detkit[medical]'")
    from pydicom.data import get_testdata_file
    found = pydicom.dcmread(get_testdata_file('CT_small.dcm', download=False))
    values = np.zeros((64, 64), np.int16)
    values[20:52, 10:42] = 2000
    found.Rows, found.Columns, found.PixelData = 64, 64, values.tobytes()
    (tmp_path / 'scan').mkdir()
    found.save_as(tmp_path / 'scan' / 'a.dcm')
    return tmp_path / 'scan' / 'a.dcm'


@pytest.mark.parametrize('loader', ['LoadImageFromFile', 'LoadDICOM'])
def test_dicom_slices_are_read_with_either_loader(config, checkpoint, slice_file, rectangle, tmp_path, loader):
    config.write_text(config.read_text().replace("type='LoadImageFromFile'", f"type='{loader}'"))
    shutil.copy(slice_file, slice_file.parent / 'IM000001')
    rectangle(slice_file.parent / 'photo.png')
    inferencer = DetInferencer(config, str(checkpoint), device='cpu', show_progress=False)
    results = inferencer(str(slice_file.parent), out_dir=str(tmp_path / 'out'), return_vis=True)
    assert [p['bboxes'] for p in results['predictions']] == [[WHITE]] * 3
    assert sorted(p.name for p in (tmp_path / 'out' / 'vis').iterdir()) == ['IM000001.png', 'a.dcm.png', 'photo.png']
    assert inferencer([slice_file.read_bytes(), rectangle(), rectangle()[..., 0]])['predictions'] == results['predictions']
    model = init_detector(config, checkpoint, device='cpu')
    assert inference_detector(model, slice_file).pred_instances.bboxes.tolist() == [WHITE]


def test_dicom_without_pydicom_is_one_line(config, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydicom', None)
    (tmp_path / 'a.dcm').write_bytes(bytes(128) + b'DICM')
    inferencer = DetInferencer(config, str(checkpoint), device='cpu', show_progress=False)
    with pytest.raises(ValueError, match=r"need the package pydicom: pip install 'detkit\[medical\]'"):
        inferencer(tmp_path / 'a.dcm')
