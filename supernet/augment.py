"""Random changes to training images that leave their class alone; all but shifts of small ones are made by kornia."""

from __future__ import annotations

import torch
from kornia.augmentation import ColorJitter, RandomAffine, RandomHorizontalFlip, RandomResizedCrop
from torch import Tensor, nn
from torch.nn import functional

from supernet.data import MEAN, STD
from supernet.sources import DIGITS

# From this size on images are photographs: cropping to a random scale and mild colour changes help them.
_LARGE = 64


class ShiftAndMirror(nn.Module):
    """Shift each image by up to an eighth, reflected at the edge, and mirror half of them: [B, 3, R, R], channels-last.

    By one gather for all. kornia's crop and flip take as long for a batch of 32 images of 32 pixels as a quarter of a
    training step on a CPU.
    """

    def __init__(self, *, flip: bool) -> None:
        super().__init__()
        self.flip = flip

    def forward(self, images: Tensor) -> Tensor:
        """Draws from torch's global CPU generator."""
        count, _, size, _ = images.shape
        margin = max(1, size // 8)
        padded = functional.pad(images, [margin] * 4, mode="reflect")
        starts = torch.randint(2 * margin + 1, (2, count, 1))
        rows, columns = starts + torch.arange(size)
        if self.flip:
            columns = torch.where(torch.rand(count, 1) < 0.5, columns, columns.flip(1))
        place = (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
        return padded.permute(0, 2, 3, 1)[tuple(index.to(images.device) for index in place)].permute(0, 3, 1, 2)


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
            steps.append(ShiftAndMirror(flip=flip))
        if flip and (affine or rescale):
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
