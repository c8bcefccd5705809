from __future__ import annotations

import pickle

import numpy as np
import pytest

from detkit.data.compose import Compose
from detkit.data.transforms.base import BaseTransform


class Read(BaseTransform):
    """What reading a file would be; counts how often."""

    def __init__(self) -> None:
        self.read = []

    def transform(self, results):
        self.read.append(results['index'])
        results['img'] = np.full((2, 2), results['index'])
        return results


class Draw(BaseTransform):
    random = True

    def transform(self, results):
        results.setdefault('drawn', []).append(results['rng'].integers(1 << 30))
        return results


class Mix(BaseTransform):
    random = True

    def __init__(self, **settings) -> None:
        vars(self).update(settings)

    def transform(self, results):
        results['partners'] = [results['partner'](i) for i in (2, 2, 3)]
        return results


def pipeline(*transforms):
    return Compose(transforms, load=lambda i: dict(index=i), num_samples=lambda: 9)


def test_each_step_has_numbers_of_its_own_that_the_key_alone_decides():
    compose = pipeline(Read(), Draw(), Draw())
    a, b = compose(dict(index=1), (0, 0, 1))['drawn']
    assert a != b
    assert compose(dict(index=1), (0, 0, 1))['drawn'] == [a, b]
    for key in ((1, 0, 1), (0, 1, 1), (0, 0, 2)):
        assert compose(dict(index=1), key)['drawn'][0] != a


def test_a_partner_has_run_through_the_steps_before_with_other_numbers():
    read = Read()
    out = pipeline(read, Draw(), Mix(), Draw())(dict(index=1), (0, 0, 1))
    assert [p['index'] for p in out['partners']] == [2, 2, 3]
    assert all(len(p['drawn']) == 1 for p in out['partners']) and len(out['drawn']) == 2
    assert len({p['drawn'][0] for p in out['partners']} | {out['drawn'][0]}) == 4
    assert read.read == [1, 2, 3]                          # the second use of image 2 reads nothing
    assert out['partners'][0]['img'] is not out['partners'][1]['img']


def test_partners_do_not_depend_on_what_was_made_before():
    one, two = pipeline(Read(), Draw(), Mix()), pipeline(Read(), Draw(), Mix())
    for i in range(6):
        two(dict(index=i), (0, 0, i))
    a, b = (c(dict(index=1), (0, 0, 1)) for c in (one, two))
    assert [p['drawn'] for p in a['partners']] == [p['drawn'] for p in b['partners']]


def test_a_step_that_gives_nothing_ends_the_pipeline():
    assert pipeline(Read(), lambda results: None, Draw())(dict(index=0)) is None


def test_workers_start_with_an_empty_store():
    compose = Compose([Read(), Mix()], load=dict, num_samples=int)
    compose.decoded[3] = dict(img=1)
    assert len(pickle.loads(pickle.dumps(compose)).decoded) == 0


@pytest.mark.parametrize(('cached', 'kept', 'reads'), [(0, 0, 4), (1, 1, 3), (2, 2, 2)])
def test_as_many_decoded_images_are_kept_as_was_asked_for(cached, kept, reads):
    read = Read()
    compose = pipeline(read, Mix(max_cached_images=cached))
    for index in (2, 2, 3, 2):
        assert compose.prefix(index)['img'][0, 0] == index
    assert len(read.read) == reads and len(compose.decoded) == kept
