"""DetInferencer, infer_files and `detkit infer`, with a detector whose answers are known."""
from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import pytest
import torch

from detkit import cli
from detkit.apis import DetInferencer, infer_files, init_detector
from detkit.inference import inferencer as module
from detkit.inference import load_inferencer
from detkit.inference.files import Summary
from detkit.registry import INFERENCERS
from detkit.zoo.index import Entry, Weights

BOX = [10., 20., 42., 52.]


@pytest.fixture
def inferencer(config, checkpoint):
    return DetInferencer(str(config), str(checkpoint), device='cpu', show_progress=False)


def test_predictions_have_mmdetections_form(inferencer, folder):
    results = inferencer(str(folder))
    assert results['visualization'] == [] and len(results['predictions']) == 3
    first, second, _ = results['predictions']
    assert first == {'labels': [1], 'scores': [pytest.approx(0.9)], 'bboxes': [BOX]}
    assert second['labels'] == [0]
    json.dumps(results)


@pytest.mark.parametrize(('size', 'batches'), [(1, [1, 1, 1]), (2, [2, 1]), (5, [3])])
def test_batches_change_nothing_but_their_number(inferencer, folder, size, batches):
    assert [p['bboxes'] for p in inferencer(str(folder), batch_size=size)['predictions']] == [[BOX]] * 3
    assert inferencer.model.batches == batches


def test_images_of_different_sizes_share_a_batch(inferencer, rectangle):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[20:52, 10:42] = 255
    found = inferencer([rectangle(), wide], batch_size=2)['predictions']
    assert found[0]['bboxes'] == found[1]['bboxes'] == [BOX] and inferencer.model.batches == [2]


def test_pictures_show_what_reaches_the_threshold(inferencer, folder):
    white, pale, _ = inferencer(str(folder), return_vis=True, pred_score_thr=0.5)['visualization']
    assert coloured(white) and not coloured(pale)       # 0.9 is drawn, 0.4 is not; the image itself is grey
    bare, = inferencer(str(folder / '0.png'), return_vis=True, draw_pred=False)['visualization']
    assert (np.asarray(bare) == cv2.imread(str(folder / '0.png'))).all()
    low, = inferencer(str(folder / '1.png'), return_vis=True, pred_score_thr=0.3)['visualization']
    assert coloured(low)


def coloured(picture: np.ndarray) -> bool:
    return bool(np.ptp(np.asarray(picture), axis=2).any())


def test_samples_instead_of_dicts(inferencer, folder):
    sample, = inferencer(str(folder / '0.png'), return_datasamples=True)['predictions']
    assert sample.pred_instances.bboxes.tolist() == [BOX]


def test_files_are_written_where_and_as_asked(inferencer, folder, tmp_path, capsys):
    out = tmp_path / 'out'
    inferencer(str(folder), out_dir=str(out), no_save_pred=False, print_result=True)
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob('*.*')) == [
        'preds/0.json', 'preds/1.json', 'preds/2.json', 'vis/0.png', 'vis/1.png', 'vis/2.png']
    assert json.loads((out / 'preds' / '0.json').read_text())['bboxes'] == [BOX]
    assert capsys.readouterr().out.count("'bboxes': [[10.0, 20.0, 42.0, 52.0]]") == 3
    inferencer(str(folder), out_dir=str(tmp_path / 'none'), no_save_vis=True)
    assert not (tmp_path / 'none').exists()


def test_an_unreadable_image_fails_by_name_or_is_skipped_and_counted(inferencer, folder):
    (folder / '1.png').write_bytes(b'')
    with pytest.raises(ValueError, match="cannot read the image '.*1.png' .the file is empty.*on_unreadable"):
        inferencer(str(folder))
    assert len(inferencer(str(folder), on_unreadable='skip')['predictions']) == 2
    assert [name for name, _ in inferencer.skipped] == [str(folder / '1.png')]


def test_a_model_or_a_checkpoint_alone_is_enough(config, checkpoint, folder):
    ready = DetInferencer(init_detector(config, checkpoint, device='cpu'), show_progress=False)
    alone = INFERENCERS.build({'type': 'DetInferencer', 'weights': str(checkpoint), 'device': 'cpu',
                               'show_progress': False})
    for inferencer in (ready, alone):
        assert inferencer.classes == ('pale', 'white')
        assert inferencer(str(folder / '0.png'))['predictions'][0]['bboxes'] == [BOX]


@pytest.mark.parametrize(('arguments', 'words'), [
    ({}, 'needs model'), ({'model': 'x', 'scope': 'mmyolo'}, "scope is 'mmyolo'"),
    ({'model': torch.nn.Identity(), 'precision': 'int8'}, "precision is 'int8'"),
    ({'model': torch.nn.Identity(), 'device': 'cpu'}, 'is built already'),
])
def test_wrong_arguments_of_the_inferencer_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        DetInferencer(**arguments)


@pytest.mark.parametrize(('arguments', 'words'), [
    ({'texts': 'cat'}, 'takes no text prompt'), ({'batch_size': 0}, 'batch_size is 0'), ({'batch_size': '4'}, "batch_size is '4'"),
    ({'batch_size': 2.5}, 'batch_size is 2.5'), ({'pred_score_thr': '0.3'}, "score threshold is '0.3'"),
    ({'pred_score_thr': None}, 'score threshold is None'), ({'pred_score_thr': 30}, 'score threshold is 30'),
    ({'on_unreadable': 'ignore'}, "on_unreadable is 'ignore'"),
    ({'out_dir': 'x', 'no_save_pred': False, 'return_datasamples': True}, 'leave out return_datasamples'),
])
def test_wrong_arguments_of_a_call_are_refused(inferencer, folder, arguments, words):
    with pytest.raises(ValueError, match=words):
        inferencer(str(folder), **arguments)


def test_a_picture_is_shown_once_for_each_image(inferencer, folder, monkeypatch):
    shown = []
    monkeypatch.setattr(module, 'show_picture', lambda picture, name, wait: shown.append((picture.shape, name, wait)))
    inferencer(str(folder), show=True, wait_time=2)
    assert shown == [((64, 64, 3), f'{i}.png', 2) for i in range(3)]


def test_bf16_is_chosen_where_the_machine_has_it(config, checkpoint, folder, monkeypatch):
    monkeypatch.setattr(module, 'native_bf16', lambda: (True, 'it has'))
    fast = DetInferencer(str(config), str(checkpoint), device='cpu', show_progress=False, precision='auto')
    assert fast.precision == 'bf16' and fast(str(folder / '0.png'))['predictions'][0]['bboxes'] == [BOX]
    monkeypatch.setattr(module, 'native_bf16', lambda: (False, 'the CPU has no bfloat16 arithmetic'))
    assert module.settled('auto') == 'fp32'
    with pytest.warns(UserWarning, match='no bfloat16 arithmetic: bf16 will be slower'):
        assert module.settled('bf16') == 'bf16'


def video(path, rectangle, count=7):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 64))
    for _ in range(count):
        writer.write(rectangle())
    writer.release()
    return path


def test_files_become_pictures_a_video_and_one_json(inferencer, folder, rectangle, tmp_path):
    video(folder / 'clip.avi', rectangle)
    summary = infer_files(inferencer, folder, tmp_path / 'out', score_thr=0.5, batch_size=4)
    written = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert written['complete'] and written['classes'] == ['pale', 'white'] and written['skipped'] == []
    assert [(r['file'].rsplit('/', 1)[1], r.get('frame')) for r in written['images']] == [
        ('0.png', None), ('1.png', None), ('2.png', None), *(('clip.avi', i) for i in range(7))]
    assert written['images'][0] == {'file': str(folder / '0.png'), 'width': 64, 'height': 64, 'objects': [
        {'box': BOX, 'label': 1, 'name': 'white', 'score': 0.9}], 'picture': 'vis/0.png'}
    assert written['images'][1]['objects'] == []                             # 0.4 is below the threshold
    assert (summary.images, summary.objects) == (10, 9)
    assert sorted(p.name for p in summary.pictures) == ['0.png', '1.png', '2.png', 'clip.mp4']
    capture = cv2.VideoCapture(str(tmp_path / 'out' / 'vis' / 'clip.mp4'))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 7


def test_results_below_the_input_are_not_read_again(inferencer, folder):
    for _ in range(2):
        assert infer_files(inferencer, folder, folder / 'out').images == 3


def test_an_interruption_keeps_what_is_done(inferencer, folder, rectangle, tmp_path, monkeypatch):
    clip = video(folder / 'a.avi', rectangle)
    draw, calls = inferencer.draw, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(inferencer, 'draw', interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer_files(inferencer, clip, tmp_path / 'out')
    written = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert not written['complete'] and [r['frame'] for r in written['images']] == [0, 1, 2]
    assert [p.name for p in (tmp_path / 'out' / 'vis').iterdir()] == ['a.mp4']


def test_nothing_readable_is_an_error(inferencer, tmp_path):
    (tmp_path / 'a.jpg').write_text('text')
    with pytest.raises(ValueError, match="none of the 1 files can be read. The first: cannot read the image '.*a.jpg'"):
        infer_files(inferencer, tmp_path / 'a.jpg', tmp_path / 'out')
    with pytest.raises(ValueError, match='threshold is 30'):
        infer_files(inferencer, tmp_path / 'a.jpg', tmp_path / 'out', score_thr=30)


def test_nothing_at_all_is_an_empty_result_or_an_error(inferencer, tmp_path):
    assert inferencer([]) == {'predictions': [], 'visualization': []}
    with pytest.raises(ValueError, match='empty list'):
        infer_files(inferencer, [], tmp_path / 'out')


def test_results_of_equal_names_do_not_replace_each_other(inferencer, rectangle, shared, tmp_path):
    trial = shared / 'trials' / 'result-names'
    inferencer(str(trial / 'in'), out_dir=str(tmp_path / 'in'), no_save_pred=False)
    assert files_below(tmp_path / 'in') == ['preds/a.jpg.json', 'preds/a.png.json', 'vis/a.jpg', 'vis/a.png']
    inferencer(str(trial / 'vid'), out_dir=str(tmp_path / 'vid'), no_save_pred=False)
    written = files_below(tmp_path / 'vid')
    assert {'vis/clip.avi.mp4', 'vis/clip.mp4', 'preds/clip.avi_000000.json', 'preds/clip.mp4_000000.json'} <= set(written)
    inferencer([str(trial / 'img' / 's1'), str(trial / 'img' / 's2')], out_dir=str(tmp_path / 'list'))
    assert files_below(tmp_path / 'list') == ['vis/s1/a.jpg', 'vis/s2/a.jpg', 'vis/s2/a.png']
    infer_files(inferencer, trial / 'img', tmp_path / 'img', pictures=True)
    images = json.loads((tmp_path / 'img' / 'results.json').read_text())['images']
    assert [r['picture'] for r in images] == ['vis/s1/a.jpg', 'vis/s2/a.jpg', 'vis/s2/a.png']


def files_below(folder) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def test_images_in_memory_are_numbered_on_and_files_replaced_in_the_next_call(inferencer, folder, rectangle, tmp_path):
    for _ in range(2):
        inferencer([rectangle(), str(folder / '0.png')], out_dir=str(tmp_path / 'out'), no_save_pred=False)
    assert files_below(tmp_path / 'out' / 'vis') == ['0.png', '00000000.jpg', '00000001.jpg']
    assert files_below(tmp_path / 'out' / 'preds') == ['0.json', '00000000.json', '00000001.json']


def test_a_video_that_is_given_twice_is_written_twice(inferencer, rectangle, tmp_path):
    clip = video(tmp_path / 'clip.avi', rectangle, 3)
    summary = infer_files(inferencer, [clip, clip], tmp_path / 'out')
    assert [p.name for p in summary.pictures] == ['clip.avi.mp4', 'clip_2.avi.mp4'] and summary.images == 6


def test_a_file_of_a_list_that_does_not_exist_is_named_before_the_start_or_skipped(inferencer, folder):
    inputs = [folder / '0.png', folder / '7.png']
    with pytest.raises(ValueError, match="no file or folder '.*7.png'.* .input 2 of 2."):
        inferencer(inputs)
    assert len(inferencer(inputs, on_unreadable='skip')['predictions']) == 1
    assert inferencer.skipped == [(str(folder / '7.png'), f"there is no image '{folder / '7.png'}'.")]


def test_a_checkpoint_is_enough_by_position_too(checkpoint, folder):
    for inferencer in (DetInferencer(str(checkpoint), device='cpu', show_progress=False),
                       DetInferencer(checkpoint, device='cpu', show_progress=False)):
        assert inferencer(folder / '0.png')['predictions'][0]['bboxes'] == [BOX]
    with pytest.raises(ValueError, match='are both checkpoints'):
        DetInferencer(checkpoint, str(checkpoint), device='cpu')


def test_names_of_the_command_line(config, checkpoint, tmp_path, monkeypatch):
    assert load_inferencer(checkpoint, device='cpu').classes == ('pale', 'white')
    with pytest.raises(ValueError, match='are both checkpoints'):
        load_inferencer(checkpoint, str(checkpoint))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'work_dirs' / 'bright').mkdir(parents=True)
    for name in ('best_coco_bbox_mAP_epoch_1.pth', 'epoch_2.pth'):
        (tmp_path / 'work_dirs' / 'bright' / name).touch()
    with pytest.raises(ValueError, match="no checkpoint for .*Training left 'work_dirs/bright/best_coco"):
        load_inferencer(config)


def test_a_model_of_the_zoo_brings_config_and_weights(config, checkpoint, monkeypatch):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()

    def zoo(**weights):
        entry = Entry('bright', str(config), 'detection', 'none', {}, 'CC0-1.0', Weights(**weights))
        monkeypatch.setattr(module, 'load_index', lambda: [entry])

    zoo(url=f'file://{checkpoint}', sha256=digest)
    for found in (load_inferencer('bright', device='cpu'), DetInferencer('bright', device='cpu')):
        assert found.classes == ('pale', 'white') and found.model.threshold.item() == 128
    zoo(url=f'file://{checkpoint}', sha256='0' * 64)
    with pytest.raises(ValueError, match="bright.pth' is not the file that model_zoo.json describes for 'bright'"):
        load_inferencer('bright')
    zoo(train='make it')
    with pytest.raises(ValueError, match="no checkpoint for 'bright'"):
        load_inferencer('bright')


def test_the_command_writes_results_and_says_where(config, checkpoint, folder, tmp_path, capsys):
    (folder / 'broken.png').write_bytes(b'x')
    out = tmp_path / 'out'
    assert cli.main(['infer', str(folder), str(config), str(checkpoint), '--out-dir', str(out), '--score-thr', '0.2',
                     '--batch-size', '2', '--device', 'cpu', '--no-progress']) == 0
    said = capsys.readouterr().out
    assert '3 objects in 3 images' in said and str(out / 'results.json') in said and 'skipped: 1' in said
    assert len(list((out / 'vis').iterdir())) == 3
    assert json.loads((out / 'results.json').read_text())['skipped'][0]['file'] == str(folder / 'broken.png')


def test_ctrl_c_ends_the_command_with_130_and_keeps_what_is_done(config, checkpoint, folder, tmp_path, monkeypatch):
    def interrupted(self, found, score_thr):
        if found.frame.source.name == '2.png':
            raise KeyboardInterrupt
        return found.image

    monkeypatch.setattr(DetInferencer, 'draw', interrupted)
    out = tmp_path / 'out'
    assert cli.main(['infer', str(folder), str(config), str(checkpoint), '--out-dir', str(out), '--no-progress']) == 130
    written = json.loads((out / 'results.json').read_text())
    assert not written['complete'] and len(written['images']) == 2 and len(list((out / 'vis').iterdir())) == 2


@pytest.mark.parametrize(('arguments', 'words'), [
    (['nowhere.jpg', '{config}', '{checkpoint}'], "no file or folder 'nowhere.jpg'"),
    (['{folder}', '{config}'], 'no checkpoint for'),
    (['{folder}', '{config}', 'nowhere.pth'], "no checkpoint 'nowhere.pth'"),
    (['{folder}', '{config}', '{checkpoint}', '--device', 'cuda:99'], "device 'cuda:99' cannot be used"),
    (['{folder}', '{config}', '{checkpoint}', '--score-thr', '3'], 'threshold is 3'),
    (['{folder}', '{config}', '{checkpoint}', '--on-unreadable', 'fail'], 'broken.png'),
])
def test_mistakes_on_the_command_line_are_one_line_and_status_2(config, checkpoint, folder, tmp_path, capsys, arguments,
                                                                words):
    (folder / 'broken.png').write_bytes(b'x')
    filled = [a.format(config=config, checkpoint=checkpoint, folder=folder) for a in arguments]
    assert cli.main(['infer', *filled, '--out-dir', str(tmp_path / 'out'), '--no-progress']) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('detkit: error: ') and words in error


def test_collect_env_prints_text_or_json(capsys):
    assert cli.main(['collect-env']) == 0
    assert 'opencv' in capsys.readouterr().out
    assert cli.main(['collect-env', '--json']) == 0
    assert 'pycocotools' in json.loads(capsys.readouterr().out)


def test_a_summary_without_objects_names_the_threshold(tmp_path):
    assert 'a lower --score-thr' in str(Summary(tmp_path / 'results.json', (), 3, 0, ()))
    assert '--score-thr' not in str(Summary(tmp_path / 'results.json', (), 3, 1, ()))
