from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

from detkit.data.formats.dicom import dicom_size, read_values
from detkit.data.transforms.dicom import LoadDICOM
from detkit.data.transforms.loading import UnreadableImage
from detkit.registry import ConfigError

pydicom = pytest.importorskip('pydicom', reason="needs pip install 'detkit[medical]'")


def sample(name: str) -> str:
    """A file that pydicom brings along: a CT and an MR slice of real scanners."""
    from pydicom.data import get_testdata_file
    return str(get_testdata_file(name, download=False))


def load(path, **options) -> np.ndarray:
    return LoadDICOM(**options)(dict(img_path=str(path)))['img']


@pytest.fixture
def series(tmp_path):
    """Five slices named out of order, each with its number times 100 added to its values."""
    found = pydicom.dcmread(sample('CT_small.dcm'))
    base = found.pixel_array.copy()
    for number, name in enumerate('dbeac'):
        found.PixelData = (base + 100 * number).astype(base.dtype).tobytes()
        found.InstanceNumber, found.ImagePositionPatient = 9 - number, [0, 0, 5.0 * number]
        found.save_as(tmp_path / f'{name}.dcm')
    (tmp_path / 'notes.txt').write_text('x')
    return tmp_path


def test_values_are_rescaled_to_hounsfield_units_and_cut_to_the_window():
    values, found = read_values(sample('CT_small.dcm'))
    assert (values == found.pixel_array.astype(np.float32) * found.RescaleSlope + found.RescaleIntercept).all() and values.min() < -800
    image = load(sample('CT_small.dcm'), window=(0, 200))
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8 and dicom_size(sample('CT_small.dcm')) == (128, 128)
    assert (image[values <= -100] == 0).all() and (image[values >= 100] == 255).all()
    near = np.abs(values) < 1
    assert np.abs(image[near].astype(int) - 127.5).max() <= 2


def test_the_window_is_the_files_a_preset_or_the_range():
    found = read_values(sample('MR_small.dcm'))[1]
    stated = load(sample('MR_small.dcm'))
    assert (stated == load(sample('MR_small.dcm'), window=(float(found.WindowCenter), float(found.WindowWidth)))).all()
    assert load(sample('MR_small.dcm'), window='range').min() == 0 and load(sample('MR_small.dcm'), window='range').max() == 255
    assert (load(sample('CT_small.dcm'), window='bone') == load(sample('CT_small.dcm'), window=(400, 1800))).all()


def test_monochrome1_is_inverted(tmp_path):
    found = pydicom.dcmread(sample('CT_small.dcm'))
    found.PhotometricInterpretation = 'MONOCHROME1'
    found.save_as(tmp_path / 'a.dcm')
    assert (load(tmp_path / 'a.dcm', window='bone') == 255 - load(sample('CT_small.dcm'), window='bone')).all()


def test_neighbouring_slices_are_channels_in_the_order_of_the_body(series):
    around = load(series / 'e.dcm', window=(0, 4000), slices=3)
    assert around.shape == (128, 128, 3)
    alone = [load(series / f'{n}.dcm', window=(0, 4000))[..., 0] for n in 'bea']
    assert all((around[..., i] == alone[i]).all() for i in range(3)) and (alone[0] != alone[1]).any()
    first = load(series / 'd.dcm', window=(0, 4000), slices=5, step=2)
    assert (first[..., 0] == first[..., 2]).all() and (first[..., 4] == load(series / 'c.dcm', window=(0, 4000))[..., 0]).all()


def test_bytes_that_are_known_already_are_not_read_again(tmp_path):
    data = np.fromfile(sample('CT_small.dcm'), np.uint8)
    found = LoadDICOM(window='bone')(dict(img_path=str(tmp_path / 'none.dcm'), encoded=data))
    assert (found['img'] == load(sample('CT_small.dcm'), window='bone')).all() and found['ori_shape'] == (128, 128)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / 'a.dcm').write_text('no dicom')
    shutil.copy(sample('CT_small.dcm'), tmp_path / 'b.dcm')
    with pytest.raises(UnreadableImage, match='a.dcm: .*no DICOM file'):
        load(tmp_path / 'a.dcm')
    with pytest.raises(UnreadableImage, match='none.dcm: .*no such file'):
        load(tmp_path / 'none.dcm')
    found = pydicom.dcmread(sample('CT_small.dcm'))
    found.NumberOfFrames, found.PixelData = 2, found.PixelData * 2
    found.save_as(tmp_path / 'two.dcm')
    with pytest.raises(UnreadableImage, match='two.dcm: .*frames or colours'):
        load(tmp_path / 'two.dcm')


def test_settings_and_the_missing_package_are_named(monkeypatch):
    for options in (dict(window='lungs'), dict(window=(0, 0)), dict(slices=2), dict(step=0)):
        with pytest.raises(ConfigError, match='LoadDICOM'):
            LoadDICOM(**options)
    monkeypatch.setitem(sys.modules, 'pydicom', None)
    with pytest.raises(ConfigError, match=r"pip install 'detkit\[medical\]'"):
        LoadDICOM()
