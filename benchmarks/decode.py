"""Time the postprocessing of detectors, as used in Python (``find``) and with fixed shapes for export (``decode``), and its operators:
RoIAlign, and pasting masks into the image.

    python benchmarks/decode.py
    python benchmarks/decode.py --models mask-rcnn --size 640 512 --batch 2 --repeats 9 --threads 2

Both forms get the same outputs of an untrained network. Its classifier is set so that about as many candidates pass the score
threshold as in a trained detector. The benchmark only prints numbers.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from measure import headline, interleaved, table
from models import RECIPES, arguments, detkit_model, find_something
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align as torchvision_roi_align
from train_step import draw

from detkit.ops.masks import paste_masks
from detkit.ops.roi_align import roi_align
from detkit.structures import DetDataSample


def forms(model: nn.Module, images: list[Tensor]) -> dict[str, Callable[[], object]]:
    """Return ``find`` and ``decode`` of a model whose network returns the same recorded outputs in every call."""
    height, width = images[0].shape[1:]
    samples = [DetDataSample(metainfo=dict(img_id=i, img_shape=(height, width), ori_shape=(height, width), scale_factor=(1., 1.)))
               for i in range(len(images))]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples))
    inputs, samples = data['inputs'], data['data_samples']
    find_something(model, lambda: model.find(inputs, samples))
    outputs = model.network(inputs, **model.context(samples, training=False))
    model.network = lambda images, **context: outputs
    sizes = torch.tensor([sample.img_shape for sample in samples])
    return {'find': lambda: model.find(inputs, samples), 'decode': lambda: model.decode(outputs, sizes)}


def boxes_on(size: tuple[int, int], count: int) -> Tensor:
    """Return random boxes (count, 4) xyxy, with sides from 16 pixels to half the image."""
    return torch.cat(draw(1, size, count)[1])


def roi_steps(size: tuple[int, int], batch: int) -> dict[str, Callable[[], object]]:
    """Return steps for 512 RoIs per image on a feature map of stride 4, with the gradient of the map, as in training."""
    feature = torch.randn(batch, 256, -(-size[0] // 4), -(-size[1] // 4), requires_grad=True)
    boxes = boxes_on(size, 512)
    rois = torch.cat([torch.cat([boxes.new_full((len(boxes), 1), i), boxes], 1) for i in range(batch)])

    def step(of: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(of().sum(), feature)
    return {'torchvision': step(lambda: torchvision_roi_align(feature, rois, (7, 7), 1 / 4, -1, True)),
            'detkit': step(lambda: roi_align(feature, rois, (7, 7), 1 / 4))}


def paste_steps(size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Return steps that paste 100 masks of 28x28: torchvision returns one score per pixel and object, detkit RLE."""
    boxes, masks = boxes_on(size, 100), torch.rand(100, 1, 28, 28)
    return {'torchvision': lambda: paste_masks_in_image(masks, boxes, size), 'detkit': lambda: paste_masks(masks[:, 0], boxes, size)}


def main() -> None:
    parser = arguments(__doc__, batch=2, repeats=5)
    args = parser.parse_args()
    if args.size[0] % 64 or args.size[1] % 64:
        parser.error(f'--size {args.size[0]} {args.size[1]}: decode takes unpadded batches; give multiples of 64')
    torch.set_num_threads(args.threads)
    size = (args.size[1], args.size[0])
    print(headline(args.threads))
    for name, steps in {'RoIAlign with gradient': roi_steps(size, args.batch), 'masks pasted': paste_steps(size)}.items():
        print(f'\n{name}\n{table(interleaved(steps, args.repeats, 1, lambda: None), "torchvision")}', flush=True)
    for name in args.models:
        with torch.no_grad():
            steps = forms(detkit_model(name).eval(), draw(args.batch, size, objects=1)[0])
            times = interleaved(steps, args.repeats, 1, lambda: None)
        print(f'\n{name}, {args.batch} images of {args.size[0]}x{args.size[1]} ({RECIPES[name]})')
        print(table(times, 'find', args.batch), flush=True)


if __name__ == '__main__':
    main()
