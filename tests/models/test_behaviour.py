"""What every kind of detector does, whatever is in the images: a family joins by its entry in tests/support/kinds.py."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from kinds import DETECTORS, PREPROCESSOR, make_batch, make_images, make_sample, small_config, small_detector
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from detkit.models.backbones.resnet import BasicBlock, Bottleneck
from detkit.registry import MODELS
from detkit.structures import DetDataSample

BOXES = [[[4., 6., 40., 44.]], [[20., 10., 60., 30.], [2., 30., 30., 62.]]]
DIVISIBLE = dict(PREPROCESSOR, pad_size_divisor=32)


@pytest.fixture(params=list(DETECTORS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def losses_of(model: nn.Module, pictures: list[Tensor], samples: list[DetDataSample]) -> dict[str, Tensor]:
    return model(**make_batch(model, pictures, samples), mode='loss')


def backward(model: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of each parameter that has one."""
    model.zero_grad()
    total, _ = model.parse_losses(losses)
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def training(model: nn.Module) -> nn.Module:
    """In training mode, but for the batch statistics, which a map of one pixel does not have."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


def tensors(outputs: object) -> Iterator[Tensor]:
    """All of a network's outputs, in order."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif dataclasses.is_dataclass(outputs):
        yield from tensors([getattr(outputs, field.name) for field in dataclasses.fields(outputs)])
    elif isinstance(outputs, dict):
        yield from tensors(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for part in outputs:
            yield from tensors(part)


def with_classes(cfg: object, count: int) -> object:
    """A config, with ``count`` classes wherever it speaks of them."""
    if isinstance(cfg, (list, tuple)):
        return [with_classes(part, count) for part in cfg]
    if not isinstance(cfg, dict):
        return cfg
    changed = {key: with_classes(value, count) for key, value in cfg.items()}
    changed.update((key, count) for key in ('num_classes', 'num_things_classes') if key in cfg)
    if 'max_per_image' in cfg:
        changed['max_per_image'] = 10                          # a query and a class make a detection: one class makes fewer
    return changed


# ------------------------------------------------------------------------------------------------- objects, few and many
@pytest.mark.parametrize('boxes', [[[]], [[], []], [[], BOXES[0]]], ids=['alone', 'all empty', 'one of two'])
def test_images_without_objects_train(kind: str, boxes: list):
    """Every parameter has a gradient, as otherwise: or processes of a run would wait for each other."""
    model = training(small_detector(kind))
    losses = losses_of(model, make_images(len(boxes)), [make_sample(b) for b in boxes])
    assert [k for k, v in losses.items() if not torch.isfinite(v).all()] == []
    grads = backward(model, losses)
    assert [n for n, p in model.named_parameters() if p.requires_grad and n not in grads] == []
    assert [n for n, g in grads.items() if not torch.isfinite(g).all()] == []
    assert any(g.abs().sum() > 0 for g in grads.values())


@pytest.mark.parametrize('count', [1, 1203])
def test_any_number_of_classes_trains_and_predicts(kind: str, count: int):
    model = training(small_detector(kind, **with_classes(small_config(kind), count)))
    samples = [make_sample(boxes, labels=[count - 1 - i % count for i in range(len(boxes))]) for boxes in BOXES]
    for sample in samples:
        stuff = sample.gt_sem_seg.sem_seg.int()
        sample.gt_sem_seg.sem_seg = stuff.masked_fill(stuff != 255, count)         # the one class of stuff follows the things
    losses = losses_of(model, make_images(2), samples)
    assert [k for k, v in losses.items() if not torch.isfinite(v).all()] == []
    assert torch.isfinite(torch.stack([g.abs().max() for g in backward(model, losses).values()])).all()
    with torch.no_grad():
        found = model.eval()(**make_batch(model, make_images(1), [make_sample([])], False), mode='predict')[0].pred_instances
    assert ((found.labels >= 0) & (found.labels < count)).all()


def test_thousands_of_objects_train(kind: str):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2000, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 2 + torch.rand(2000, 2, generator=generator) * 10], 1).tolist()
    model = training(small_detector(kind))
    losses = losses_of(model, make_images(1), [make_sample(boxes)])
    assert [k for k, v in losses.items() if not torch.isfinite(v).all()] == []
    assert torch.isfinite(torch.stack([g.abs().max() for g in backward(model, losses).values()])).all()


def test_objects_smaller_than_a_pixel_or_without_area_train(kind: str):
    model = training(small_detector(kind))
    losses = losses_of(model, make_images(1), [make_sample([[10., 10., 10.4, 10.4], [30., 30., 30., 30.]])])
    assert [k for k, v in losses.items() if not torch.isfinite(v).all()] == []
    assert torch.isfinite(torch.stack([g.abs().max() for g in backward(model, losses).values()])).all()


# ------------------------------------------------------------------------------------------------- images, small and wide
SIZES = [(1, 1), (1, 700), (300, 2)]


@pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size[1]}x{size[0]}')
def test_images_of_a_pixel_and_very_wide_ones(kind: str, size: tuple[int, int]):
    model = training(small_detector(kind, data_preprocessor=DIVISIBLE))
    boxes = [[0., 0., size[1], size[0]]]
    losses = losses_of(model, make_images(1, size), [make_sample(boxes, size=size)])
    assert [k for k, v in losses.items() if not torch.isfinite(v).all()] == []
    assert torch.isfinite(torch.stack([g.abs().max() for g in backward(model, losses).values()])).all()
    with torch.no_grad():
        found = model.eval()(**make_batch(model, make_images(1, size), [make_sample([], size=size)], False), mode='predict')
    boxes = found[0].pred_instances.bboxes
    assert torch.isfinite(boxes).all()
    if 'masks' in found[0].pred_instances:
        assert found[0].pred_instances.masks.shape == (len(boxes), *size)


# ---------------------------------------------------------------------------------------------------------------- batches
def assert_equal_instances(got: object, want: object) -> None:
    """Equal counts, and each of ``want`` is in ``got``: where scores tie, the order is nobody's."""
    assert len(got) == len(want) > 0
    same = (got.labels[None] == want.labels[:, None]) & torch.isclose(got.scores[None], want.scores[:, None], atol=1e-3, rtol=0) \
        & torch.isclose(got.bboxes[None], want.bboxes[:, None], atol=1e-2, rtol=1e-3).all(-1)
    assert same.any(1).all(), f'{int((~same.any(1)).sum())} of {len(want)} not found'
    if 'masks' in want:
        got_masks, want_masks = got.masks.to_tensor().flatten(1), want.masks.to_tensor().flatten(1)
        differ = (got_masks[None] != want_masks[:, None]).float().mean(-1)
        assert (differ.masked_fill(~same, 1.).amin(1) < 0.01).all()


def test_a_batch_predicts_what_its_images_do(kind: str):
    model, pictures, samples = small_detector(kind), make_images(3), [make_sample([]) for _ in range(3)]
    with torch.no_grad():
        together = model(**make_batch(model, pictures, samples, False), mode='predict')
        for i in range(3):
            alone = model(**make_batch(model, pictures[i:i + 1], samples[i:i + 1], False), mode='predict')[0]
            assert_equal_instances(together[i].pred_instances, alone.pred_instances)
            scores = together[i].pred_instances.scores.tolist()
            assert scores == sorted(scores, reverse=True)


def test_images_of_several_sizes_do_not_see_each_other(kind: str):
    """Each image of a batch gives what it gives alone, padded as in the batch, and boxes end at it (but where MMDetection's do not)."""
    model, sizes = small_detector(kind, data_preprocessor=DIVISIBLE), [(40, 64), (64, 50), (70, 96)]
    pictures = [make_images(1, size, seed=i)[0] for i, size in enumerate(sizes)]
    data = make_batch(model, pictures, [make_sample([], size=size) for size in sizes], False)
    assert data['inputs'].shape[2:] == (96, 96)
    with torch.no_grad():
        alone = [model.predict(data['inputs'][i:i + 1], [data['data_samples'][i].clone()])[0] for i in range(3)]
        together = model.predict(data['inputs'], data['data_samples'])
    for found, expected, (height, width) in zip(together, alone, sizes):
        assert_equal_instances(found.pred_instances, expected.pred_instances)
        boxes = found.pred_instances.bboxes
        assert kind in ('tood', 'centernet', 'yolox') or boxes.min() >= 0 and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height


def test_losses_of_images_of_several_sizes(kind: str):
    """A batch of two sizes trains, with an object at each image's far corner."""
    model, sizes = training(small_detector(kind, data_preprocessor=DIVISIBLE)), [(40, 64), (64, 96)]
    samples = [make_sample([[w - 20., h - 20., w, h]], size=(h, w)) for h, w in sizes]
    losses = losses_of(model, [make_images(1, size)[0] for size in sizes], samples)
    assert torch.isfinite(torch.stack([g.abs().max() for g in backward(model, losses).values()])).all()


def test_boxes_come_back_in_pixels_of_the_original_image(kind: str):
    model = small_detector(kind)
    data = make_batch(model, make_images(1), [make_sample([], scale_factor=(.5, 2.), ori_shape=(32, 128))], False)
    with torch.no_grad():
        network = model.predict(data['inputs'], [data['data_samples'][0].clone()], rescale=False)[0].pred_instances
        original = model.predict(**data)[0].pred_instances
    # boxes around the masks of queries are read off the masks of each frame: two pixels of the network's
    assert_close(original.bboxes, network.bboxes * torch.tensor([2., .5, 2., .5]), atol=4. if kind.startswith('mask') else 1e-3, rtol=0)
    if 'masks' in network:
        assert (network.masks.shape[1:], original.masks.shape[1:]) == ((64, 64), (32, 128))


# -------------------------------------------------------------------------------------------- precision, repetition, purity
def test_losses_are_float32_and_finite_in_a_bfloat16_network(kind: str):
    # 128 pixels: the gradient of a strided convolution over a map one pixel wide is undefined memory in torch's CPU bfloat16
    model, size = training(small_detector(kind)), (128, 128)
    pictures, samples = make_images(2, size), [make_sample(boxes, size=size) for boxes in BOXES]
    with torch.autocast('cpu', torch.bfloat16):
        feats = model.extract_feat(make_batch(model, pictures, samples)['inputs'])
        losses = losses_of(model, pictures, samples)
        with torch.no_grad():
            found = model.eval()(**make_batch(model, pictures, samples, False), mode='predict')[0].pred_instances
    assert feats[0].dtype == torch.bfloat16
    assert [k for k, v in losses.items() if v.dtype != torch.float32 or not torch.isfinite(v).all()] == []
    assert {found.bboxes.dtype, found.scores.dtype} == {torch.float32}
    assert [n for n, g in backward(model, losses).items() if not torch.isfinite(g).all()] == []


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_a_step_follows_from_its_samples_to_the_bit(kind: str, deterministic: None):
    model = training(small_detector(kind))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.
    pictures, state = make_images(2), torch.get_rng_state()
    first, again, other = ((losses := losses_of(model, pictures, [make_sample(boxes, seed=seed) for boxes in BOXES]),
                            backward(model, losses)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)                # nothing is drawn from torch's own generator
    assert {k: v.item() for k, v in first[0].items()} == {k: v.item() for k, v in again[0].items()}
    assert [name for name in first[1] if not torch.equal(first[1][name], again[1][name])] == []
    assert set(first[0]) == set(other[0])


def test_nothing_is_kept_between_loss_and_prediction(kind: str):
    model = small_detector(kind)
    before = {n: set(vars(m)) for n, m in model.named_modules()}
    losses_of(model, make_images(1), [make_sample(BOXES[0])])
    with torch.no_grad():
        model(**make_batch(model, make_images(1), [make_sample([])], False), mode='predict')
    assert {n: set(vars(m)) for n, m in model.named_modules()} == before


# -------------------------------------------------------------------------------------------------------------- compiling
COMPILED = ('retinanet', 'faster_rcnn', 'detr')       # in the short suite: the others take two minutes


def compiled_gives_eagers_numbers(kind: str, backend: str) -> None:
    """With one graph, for every batch and size: the coarsest map has more than one pixel, of which torch makes a special case."""
    torch.compiler.reset()
    counters['stats'].clear()
    model = small_detector(kind)
    network = torch.compile(model.network, dynamic=True, fullgraph=True, backend=backend)
    with torch.no_grad():
        for batch, size in ((2, (160, 192)), (3, (320, 256))):
            images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
            got, want = list(tensors(network(images))), list(tensors(model.network(images)))
            assert len(got) == len(want) > 0
            for g, w in zip(got, want):
                assert_close(g, w, atol=1e-4, rtol=1e-3)
    assert counters['stats']['unique_graphs'] == 1


@pytest.mark.parametrize('kind', [pytest.param(kind, marks=() if kind in COMPILED else pytest.mark.slow) for kind in DETECTORS])
def test_the_compiled_network_gives_the_eager_numbers(kind: str):
    compiled_gives_eagers_numbers(kind, 'eager')


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['retinanet'])       # minutes for one; all are captured by the test above
def test_the_network_compiled_to_machine_code_gives_the_eager_numbers(kind: str):
    compiled_gives_eagers_numbers(kind, 'inductor')


# ---------------------------------------------------------------------------------------------------------- initial weights
def statistics(cfg: dict, weight: Tensor) -> tuple[float, float]:
    """(mean, standard deviation) of the values with which an initialiser fills ``weight``."""
    kind = cfg['type'].removesuffix('Init')
    if kind == 'Constant':
        return cfg['val'], 0.
    if kind in ('Normal', 'TruncNormal'):
        return cfg.get('mean', 0.), cfg.get('std', 1.)
    if kind == 'Uniform':
        low, high = cfg.get('a', 0.), cfg.get('b', 1.)
        return (low + high) / 2, (high - low) / 12**.5
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    if kind == 'Xavier':
        return 0., cfg.get('gain', 1.) * (2 / (fan_in + fan_out))**.5
    cfg = dict(a=1, mode='fan_in', nonlinearity='leaky_relu') if kind == 'Caffe2Xavier' else cfg
    gain = nn.init.calculate_gain(cfg.get('nonlinearity', 'relu'), cfg.get('a', 0))
    return 0., gain / (fan_in if cfg.get('mode', 'fan_out') == 'fan_in' else fan_out)**.5


def said(module: nn.Module) -> dict[nn.Parameter, tuple[float, float]]:
    """(mean, standard deviation) of each parameter that an ``init_cfg`` names: a part's own comes after the whole's."""
    found = {}
    entries = getattr(module, 'init_cfg', None) or []
    for cfg in [entries] if isinstance(entries, dict) else entries:
        layers = cfg.get('layer', [])
        chosen = [(m, cfg) for m in module.modules() if {type(m).__name__, *(b.__name__ for b in type(m).__bases__)}
                  & set([layers] if isinstance(layers, str) else layers)]
        overrides = cfg.get('override', [])
        for override in [overrides] if isinstance(overrides, dict) else overrides:
            rule = override if 'type' in override else dict(cfg, **override)
            chosen += [(m, rule) for m in getattr(module, override['name']).modules()]
        for m, rule in chosen:
            if isinstance(getattr(m, 'weight', None), nn.Parameter):
                found[m.weight] = statistics(rule, m.weight)
            if isinstance(getattr(m, 'bias', None), nn.Parameter):
                p = rule.get('bias_prob')
                found[m.bias] = rule.get('bias', 0.) if p is None else -math.log((1 - p) / p), 0.
    for child in module.children():
        found.update(said(child))
    return found


def test_every_part_is_initialised_as_its_init_cfg_says(kind: str, monkeypatch: pytest.MonkeyPatch):
    """By the mean and the spread of the values. What a class's own ``init_weights`` writes after that is for its own test."""
    model, written, original = MODELS.build(small_config(kind)), {}, BaseModule.init_weights

    def init_weights(module: BaseModule) -> None:
        original(module)
        for p in module.parameters():
            written.setdefault(p, p._version)
    monkeypatch.setattr(BaseModule, 'init_weights', init_weights)
    torch.manual_seed(0)
    model.init_weights()
    assert [n for n, m in model.named_modules() if isinstance(m, BaseModule) and not m.is_init] == []
    rules = {p: rule for p, rule in said(model).items() if p._version == written[p]}
    assert rules
    wrong = {}
    for name, p in model.named_parameters():
        if p in rules:
            (mean, std), value = rules[p], p.detach().double()
            error = 5 * std / p.numel()**.5 + 1e-6
            if abs(value.mean() - mean) > error or abs(value.std(correction=0) - std) > error:
                wrong[name] = rules[p], (value.mean().item(), value.std(correction=0).item())
    assert wrong == {}


def test_residual_branches_start_at_zero(kind: str):
    model = MODELS.build(small_config(kind))
    model.init_weights()
    blocks = [m for m in model.modules() if isinstance(m, (BasicBlock, Bottleneck))]
    assert all(getattr(block, block.norm_names[-1]).weight.abs().max() == 0 for block in blocks)
    assert bool(blocks) == (type(model.backbone).__name__ == 'ResNet')
