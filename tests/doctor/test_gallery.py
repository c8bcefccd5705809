from __future__ import annotations

import json
import re
import shutil
import subprocess

import cv2
import pytest

from detkit.cli import main
from detkit.doctor.gallery import browse, open_page
from detkit.registry import ConfigError

BROWSER = shutil.which('chromium') or shutil.which('google-chrome') or shutil.which('chromium-browser')
QUIET = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--virtual-time-budget=3000')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True)]
PIPELINE = [*LOAD, dict(type='Resize', scale=(64, 48)), dict(type='RandomFlip', prob=1.0), dict(type='Pad', size=(80, 80)),
            dict(type='PackDetInputs')]


def config(coco, tmp_path, inner=PIPELINE, kind='CocoDataset', **wrapped) -> str:
    data = dict(type='CocoDataset', data_root=str(coco), ann_file='a.json', data_prefix=dict(img='images/'),
                metainfo=dict(classes=('cat', 'dog')), pipeline=inner)
    data = data if kind == 'CocoDataset' else dict(type=kind, **wrapped, **({'datasets': [data, data]} if kind == 'ConcatDataset' else
                                                                           {'dataset': data}))
    (tmp_path / 'c.py').write_text(f'train_dataloader = dict(dataset={data!r})\n')
    return str(tmp_path / 'c.py')


def run_browser(*arguments: str, profile) -> str:
    if BROWSER is None:
        pytest.skip('needs a browser: chromium or google-chrome on PATH (apt-get install chromium)')
    done = subprocess.run([BROWSER, *QUIET, f'--user-data-dir={profile}', *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_each_step_is_shown_with_its_boxes_and_outlines(coco, tmp_path):
    text = browse(config(coco, tmp_path), out=tmp_path / 'out').read_text()
    assert text.count('class="sample"') == 5 and len(list((tmp_path / 'out/images').iterdir())) == text.count('<img')
    for step in ('LoadImageFromFile</b> 64x48', 'LoadAnnotations</b> 64x48, 2 objects', 'Pad</b> 80x80, 2 objects'):
        assert step in text
    assert 'Resize: no change' in text                                       # the pictures have that size already
    boxes = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', text)
    assert ('4.0', '5.0', '10.0') in boxes and ('50.0', '5.0', '10.0') in boxes      # as read, and flipped: 64 - 4 - 10
    assert text.count('<polygon') == text.count('<rect') and 'class="object ignored"' in text     # a crowd's


def test_mixed_repeated_and_joined_sets_are_shown(coco, tmp_path):
    mosaic = [dict(type='Mosaic', img_scale=(64, 48)), dict(type='PackDetInputs')]
    text = browse(config(coco, tmp_path, LOAD, 'MultiImageMixDataset', pipeline=mosaic), count=2, out=tmp_path / 'a').read_text()
    assert text.count('Mosaic</b> 128x96') == 2
    assert browse(config(coco, tmp_path, kind='RepeatDataset', times=2), count=10, out=tmp_path / 'b').read_text().count('"sample"') == 10
    assert 'sample 9' in browse(config(coco, tmp_path, kind='ConcatDataset'), count=3, out=tmp_path / 'c').read_text()


def test_a_dropped_sample_is_told_and_names_cannot_break_the_page(coco, tmp_path):
    drop = [*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(900, 900))]
    assert 'FilterAnnotations drops this sample' in browse(config(coco, tmp_path, drop), out=tmp_path / 'a').read_text()
    content = json.loads((coco / 'a.json').read_text())
    content['categories'][0]['name'] = '</script><b>"x'
    (coco / 'a.json').write_text(json.dumps(content))
    file = config(coco, tmp_path)
    (tmp_path / 'c.py').write_text(open(file).read().replace("'dog'", repr('</script><b>"x')))
    text = browse(file, out=tmp_path / 'b').read_text()
    assert text.count('</script>') == 1 and '<b>"x' not in text


def test_a_split_that_is_not_there_is_named(coco, tmp_path):
    with pytest.raises(ConfigError, match='no test_dataloader'):
        browse(config(coco, tmp_path), split='test', out=tmp_path / 'out')


def test_the_page_is_opened_only_where_there_is_a_screen(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr('webbrowser.open', lambda uri: opened.append(uri) or True)
    monkeypatch.setattr('sys.platform', 'linux')
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    assert open_page(tmp_path / 'a.html') is False and opened == []
    monkeypatch.setenv('DISPLAY', ':0')
    assert open_page(tmp_path / 'a.html') is True and opened == [(tmp_path / 'a.html').as_uri()]


def test_a_browser_draws_the_page_and_filters_by_class(coco, tmp_path, capsys):
    assert main(['browse-dataset', config(coco, tmp_path), '--output-dir', str(tmp_path / 'out'), '--not-show']) == 0
    page = (tmp_path / 'out/index.html').as_uri()
    assert 'samples: ' in capsys.readouterr().out
    whole = run_browser('--dump-dom', page, profile=tmp_path / 'profile')
    assert '<span id="shown">5</span>' in whole
    cats = run_browser('--dump-dom', f'{page}#cat', profile=tmp_path / 'profile')
    assert '<span id="shown">3</span>' in cats                               # images 1, 4 and 5 have one
    assert cats.count('hidden=""') == 2 and re.search(r'data-label="0" aria-pressed="true"', cats)
    run_browser(f'--screenshot={tmp_path / "shot.png"}', '--window-size=1200,900', page, profile=tmp_path / 'profile')
    shot = cv2.imread(str(tmp_path / 'shot.png')).astype(int)
    colour = [int(v) for v in re.search(r'data-label="1" style="color: rgb\((\d+), (\d+), (\d+)\)"', whole).groups()]
    assert (abs(shot - colour[::-1]).max(-1) < 12).sum() > 300               # the boxes of dogs are drawn in their colour
