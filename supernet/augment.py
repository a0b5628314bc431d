"""Random changes to training images, made by kornia, that leave their class alone."""

from __future__ import annotations

import torch
from kornia.augmentation import ColorJitter, RandomAffine, RandomCrop, RandomHorizontalFlip, RandomResizedCrop
from torch import Tensor, nn

from supernet.data import MEAN, STD
from supernet.sources import DIGITS

# From this size on images are photographs: cropping to a random scale and mild colour changes help them.
_LARGE = 64


class Augment(nn.Module):
    """Augmentation of normalised batches, float32 [B, 3, R, R] -> the same shape, each image changed in its own way.

    Args:
        resolution: R.
        flip: mirror half of the images; wrong where left and right mean something, as in digits and letters.
        affine: small rotation, shift and scaling on a black background, instead of a random crop.
        colour: mild changes of brightness, contrast and saturation.
        rescale: crop to a random scale (40 to 100 % of the area), instead of a shift of up to an eighth.
    """

    def __init__(self, resolution: int, *, flip: bool, affine: bool, colour: bool, rescale: bool) -> None:
        super().__init__()
        size, steps = (resolution, resolution), []
        if affine:
            steps.append(RandomAffine(degrees=10.0, translate=(0.08, 0.08), scale=(0.9, 1.1)))
        elif rescale:
            steps.append(RandomResizedCrop(size, scale=(0.4, 1.0)))
        else:
            steps.append(RandomCrop(size, padding=max(1, resolution // 8), padding_mode="reflect"))
        if flip:
            steps.append(RandomHorizontalFlip())
        if colour:
            steps.append(ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2))
        self.steps = nn.Sequential(*steps)

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The result depends on `images` and the state of `generator` alone; one number is drawn from it."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        # kornia draws from torch's global CPU generator; that of a GPU is not touched.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            # Colour operations want [0, 1], where 0 is black, which is also what affine shifts fill with.
            changed: Tensor = self.steps(images * STD + MEAN)
        return (changed - MEAN) / STD


def augmentation(name: str, resolution: int) -> Augment:
    """What suits the data set called `name` at this resolution."""
    digits, large = name == DIGITS, resolution >= _LARGE
    return Augment(
        resolution, flip=not digits, affine=digits, colour=large and not digits, rescale=large and not digits
    )
