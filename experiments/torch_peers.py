"""PyTorch peers of experiments/speed.py, written plainly.

Training: the same networks, loss, augmentation and optimiser. Jacobian norms: the same networks in eval mode, and the
three routes that PyTorch offers to the whole matrix.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional


def training_steps(
    network: str, *, batch: int, image_shape: tuple[int, int, int], classes: int, hyper: dict[str, float]
) -> dict[str, Callable[[], float]]:
    """Training steps of a network, one for each memory format: calling one makes a step and gives its loss."""
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    return {
        f"torch, {name}": _training_step(network, batch, image_shape, classes, hyper, memory_format)
        for name, memory_format in formats.items()
    }


def _training_step(network, batch, image_shape, classes, hyper, memory_format):
    torch.manual_seed(0)
    height, width, channels = image_shape
    model = nn.Sequential(BACKBONES[network](channels), Cosines(FEATURES[network], classes))
    model.train().to(memory_format=memory_format)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": hyper["weight_decay"]}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=hyper["learning_rate"], momentum=0.9, fused=True)
    pixels = torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8)
    labels = torch.arange(batch) % classes

    def step() -> float:
        images = crop_and_flip(pixels.float() / 127.5 - 1.0).contiguous(memory_format=memory_format)
        loss = m_ovr_loss(model(images), labels, margin=hyper["margin"], scale=hyper["scale"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def crop_and_flip(images: torch.Tensor, padding: int = 4) -> torch.Tensor:
    """Random crop after padding and random mirroring: one gather for the whole batch."""
    batch, channels, height, width = images.shape
    images = functional.pad(images, (padding,) * 4, value=-1.0)
    corners = torch.randint(0, 2 * padding + 1, (2, batch, 1))
    rows, columns = corners[0] + torch.arange(height), corners[1] + torch.arange(width)
    columns = torch.where(torch.rand(batch, 1) < 0.5, columns.flip(1), columns)
    image, channel = torch.arange(batch)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def m_ovr_loss(cosines: torch.Tensor, labels: torch.Tensor, *, margin: float, scale: float) -> torch.Tensor:
    """Margin one-vs-rest loss per example."""
    sines = (1.0 - cosines.square()).clamp(min=1e-12).sqrt()
    logits = scale * (cosines * math.cos(margin) - sines * math.sin(margin))
    is_target = functional.one_hot(labels, logits.shape[-1]).bool()
    return functional.softplus(torch.where(is_target, -logits, logits)).sum(-1)


def jacobian_norms(
    network: str, *, batch: int, image_shape: tuple[int, int, int]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Exact input-Jacobian norms of the unit embedding of a batch, one callable for each route and memory format."""
    torch.manual_seed(0)
    height, width, channels = image_shape
    images = 2.0 * torch.rand(batch, channels, height, width) - 1.0
    model, channels_last = (BACKBONES[network](channels).eval().requires_grad_(False) for _ in range(2))
    channels_last.to(memory_format=torch.channels_last)
    images_last = images.contiguous(memory_format=torch.channels_last)
    return {
        "torch, loop over outputs": lambda: loop_norms(model, images),
        "torch, loop, channels_last": lambda: loop_norms(channels_last, images_last),
        "torch, vmap(jacrev), chunk 32": lambda: jacrev_norms(model, images, chunk_size=32),
        "torch, vmap(jacrev)": lambda: jacrev_norms(model, images, chunk_size=None),
    }


def loop_norms(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Norm of each image's Jacobian: one backward pass of the batch for each output."""
    images = images.detach().requires_grad_(True)
    embeddings, squares = functional.normalize(model(images), dim=-1), images.new_zeros(len(images))
    for k in range(embeddings.shape[1]):
        (gradients,) = torch.autograd.grad(embeddings[:, k].sum(), images, retain_graph=True)
        squares = squares + gradients.square().flatten(1).sum(1)
    return squares.sqrt()


def jacrev_norms(model: nn.Module, images: torch.Tensor, *, chunk_size: int | None) -> torch.Tensor:
    """Norm of each image's Jacobian, which is made as a whole."""

    def embedding(image):
        return functional.normalize(model(image[None])[0], dim=-1)

    return vmap(jacrev(embedding, chunk_size=chunk_size))(images).square().flatten(1).sum(1).sqrt()


class Cosines(nn.Module):
    """Cosines of embeddings and class prototypes."""

    def __init__(self, features, classes):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(classes, features))

    def forward(self, embedding):
        """One cosine for each class."""
        return functional.normalize(embedding, dim=-1) @ functional.normalize(self.prototypes, dim=-1).T


def small_cnn(channels: int) -> nn.Module:
    """Convolutions of 32, 64, 128 and 128 channels, the first three with stride 2, and a linear layer."""
    layers = []
    for width, stride in ((32, 2), (64, 2), (128, 2), (128, 1)):
        layers += [_conv(channels, width, stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, *_average(), nn.Linear(channels, 128))


def wrn16_4(channels: int) -> nn.Module:
    """Wide residual network of depth 16 and widening factor 4."""
    layers, width = [_conv(channels, 16)], 16
    for stage in range(3):
        for block in range(2):
            layers.append(PreActivationBlock(width, 64 * 2**stage, 2 if stage > 0 and block == 0 else 1))
            width = 64 * 2**stage
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True), *_average())


def resnet18(channels: int) -> nn.Module:
    """Residual network of 18 layers with a 3x3 stem."""
    layers, width = [_conv(channels, 64), nn.BatchNorm2d(64), nn.ReLU(inplace=True)], 64
    for stage in range(4):
        for block in range(2):
            layers.append(ResidualBlock(width, 64 * 2**stage, 2 if stage > 0 and block == 0 else 1))
            width = 64 * 2**stage
    return nn.Sequential(*layers, *_average())


class PreActivationBlock(nn.Module):
    """Block of a wide residual network; the shortcut of a change of shape reads the activated map."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), _conv(channels, width, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), _conv(width, width)
        same = channels == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x):
        """The map after the block."""
        activated = functional.relu(self.norm1(x), inplace=True)
        y = self.conv2(functional.relu(self.norm2(self.conv1(activated)), inplace=True))
        return y + (x if self.shortcut is None else self.shortcut(activated))


class ResidualBlock(nn.Module):
    """Basic block of a residual network."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1, self.norm1 = _conv(channels, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _conv(width, width), nn.BatchNorm2d(width)
        same = channels == width and stride == 1
        projection = [] if same else [nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)]
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x):
        """The map after the block."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)), inplace=True)))
        return functional.relu(y + self.shortcut(x), inplace=True)


def _conv(channels, width, stride=1):
    return nn.Conv2d(channels, width, 3, stride, 1, bias=False)


def _average():
    return nn.AdaptiveAvgPool2d(1), nn.Flatten()


BACKBONES = {"small_cnn": small_cnn, "wrn16_4": wrn16_4, "resnet18": resnet18}
FEATURES = {"small_cnn": 128, "wrn16_4": 256, "resnet18": 512}
