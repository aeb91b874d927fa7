"""`python -m training prune-sensitivity`: which layers of a detector bear pruning."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands import declare

if TYPE_CHECKING:
    import torch

    from training.prune.sensitivity import Sensitivity

METHODS = ('bn', 'group_norm', 'lamp', 'random')
EPILOG = """\
Each layer's channels are pruned alone, without any training after it, and the change of the head's outputs is measured on
images: 0 is no change, 1 is as large as all that the outputs say. Layers that bear little go under skip in a recipe's prune
stage.

examples:
  python -m training prune-sensitivity teacher/weights.pt out/data/visdrone
      a table and a picture of every layer in out/prune_sensitivity
  python -m training prune-sensitivity weights.pt my_photos --ratios 0.5 --method lamp --images 4 --size 640
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command."""
    text = "prune a detector layer by layer, and tell how much each changes the detector's outputs"
    parser = declare(commands, 'prune-sensitivity', text, EPILOG)
    parser.add_argument('weights', type=Path, help='weights file of a detector, as the trainer writes it')
    parser.add_argument('dataset', type=Path, help='folder with images/SPLIT, or its name in the data root')
    parser.add_argument('--split', default='val', help='%(default)s by default')
    parser.add_argument('--images', type=int, default=8, help='how many of the split; %(default)s by default')
    parser.add_argument('--size', type=int, default=480, help='side of the input in pixels; %(default)s by default')
    parser.add_argument(
        '--method', choices=METHODS, default='bn', help='what ranks the channels; %(default)s by default'
    )
    parser.add_argument('--ratios', type=float, nargs='+', default=[0.25, 0.5, 0.75], help='shares of a layer that go')
    parser.add_argument(
        '--results', type=Path, default=Path('out/prune_sensitivity'), help='folder; %(default)s by default'
    )
    parser.set_defaults(command=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Measure, print the layers that bear least, and leave table and picture in the folder."""
    from training.data.root import data_set
    from training.errors import PruneError
    from training.models.weights import load_network
    from training.prune.sensitivity import draw, output_drift, sensitivity, write_table
    from training.prune.settings import PruneSettings

    if options.size % 32 or options.images < 1:
        raise PruneError('--size must be a multiple of 32 and --images at least 1')
    network, _ = load_network(options.weights)
    dataset = data_set(options.dataset, options.data)
    images = read_images(dataset, options.split, options.images, options.size)
    settings = PruneSettings(method=options.method, ratio=0.5, round_to=1)
    rows = sensitivity(network, output_drift(network, images), settings, options.ratios)
    write_table(rows, options.results / 'sensitivity.csv')
    draw(rows, options.results / 'sensitivity.png')
    print(markdown(rows))
    print(f'\n{options.results}: sensitivity.csv, sensitivity.png')
    return 0


def read_images(dataset: Path, split: str, count: int, size: int) -> torch.Tensor:
    """Images of a split, evenly spread over it, letterboxed: float (N, 3, size, size), RGB in 0 … 1.

    Raises:
        DataError: the split has no images.
    """
    import numpy as np
    import torch

    from training.data.spread import letterboxed, spread_images

    images = np.stack(list(letterboxed(spread_images(dataset, split, count), size, size)))
    return torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).permute(0, 3, 1, 2).float() / 255


def markdown(rows: Sequence[Sensitivity], count: int = 12) -> str:
    """The layers that change the outputs most for what their pruning saves, and those that change them least."""
    ratios = sorted({row.ratio for row in rows})
    by_layer: dict[str, dict[float, Sensitivity]] = {}
    for row in rows:
        by_layer.setdefault(row.layer, {})[row.ratio] = row
    middle = ratios[len(ratios) // 2]
    order = sorted(by_layer, key=lambda layer: -by_layer[layer][middle].value)
    shown = order if len(order) <= 2 * count else [*order[:count], '…', *order[-count:]]
    head = ['layer', 'channels', *(f'drift at {ratio:.0%}' for ratio in ratios), f'parameters at {middle:.0%}']
    lines = [head, ['---'] * len(head)]
    for layer in shown:
        entries = by_layer.get(layer)
        if entries is None:
            lines.append(['…'] * len(head))
            continue
        drifts = [f'{entries[ratio].value:.3f}' for ratio in ratios]
        lines.append([layer, str(entries[middle].channels), *drifts, f'−{entries[middle].parameters:.2%}'])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
