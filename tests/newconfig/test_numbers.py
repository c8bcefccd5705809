"""Numbers worked out by hand."""
from __future__ import annotations

import pytest

from detkit.newconfig.numbers import choose_image_size, choose_numbers, round_epochs


def content(sizes: list[tuple[int, int]], side: float) -> dict:
    """Images of ``sizes`` (width, height) with one square object each."""
    return dict(images=[dict(id=n, width=w, height=h) for n, (w, h) in enumerate(sizes)],
                annotations=[dict(image_id=n, bbox=[0, 0, side, side]) for n, _ in enumerate(sizes)])


@pytest.mark.parametrize(('size', 'side', 'cpu', 'gpu'), [
    ((640, 480), 40, (320, 256), (640, 480)),         # 16 of 40 pixels are enough, but not below 320
    ((640, 480), 20, (512, 384), (640, 480)),         # 16 of 20: 0.8
    ((640, 480), 10, (640, 480), (640, 480)),
    ((4000, 3000), 400, (320, 256), (1344, 1024)),    # 1333 on a GPU
    ((256, 256), 20, (256, 256), (256, 256)),         # small images stay
    ((256, 256), 5, (416, 416), (416, 416)),          # 8 pixels of 5: 1.6 times 256 is 409.6
    ((28, 28), 10, (32, 32), (32, 32))])
def test_image_size_follows_images_and_objects(size: tuple, side: float, cpu: tuple, gpu: tuple):
    assert choose_image_size(content([size] * 5, side), on_gpu=False) == cpu
    assert choose_image_size(content([size] * 5, side), on_gpu=True) == gpu


def test_upright_and_lying_images_get_a_square():
    assert choose_image_size(content([(640, 480)] * 5 + [(480, 640)] * 5, 10), on_gpu=False) == (640, 640)


def test_small_sets_get_more_epochs_and_smaller_batches():
    def numbers(count: int, **options):
        return choose_numbers(content([(64, 64)] * count, 20), **dict(recipe_batch=8, pretrained=False, on_gpu=False, cores=4) | options)
    assert [numbers(n).max_epochs for n in (10, 205, 1000, 100_000)] == [300, 100, 20, 12]
    assert numbers(205, pretrained=True).max_epochs == 60             # 1500 steps of 8 are more than 6000 images
    assert numbers(205, pretrained=True, recipe_batch=2).max_epochs == 30
    assert [numbers(n).batch_size for n in (3, 10, 205)] == [1, 2, 8]
    assert [numbers(205, recipe_batch=32, on_gpu=gpu).batch_size for gpu in (False, True)] == [8, 32]
    assert (numbers(205).val_interval, numbers(205).num_workers, numbers(205, cores=1).num_workers) == (10, 3, 1)


def test_epochs_are_round():
    assert [round_epochs(v) for v in (17.4, 24.4, 97.6, 204)] == [17, 24, 100, 200]
