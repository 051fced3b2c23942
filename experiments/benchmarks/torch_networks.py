"""The networks of osrjax.models in PyTorch, for torch_peers.py: the same layers and as many parameters (tests count).

small_cnn, wrn16_4 and resnet18 as plain lists of layers, so that their stages can be told apart; cosines to class
prototypes behind them for training, and two layers to unit projections for GradMix.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

# ---------------------------------------------------------------------------------------------- heads


class ContrastiveNetwork(nn.Module):
    """A backbone whose stage maps are kept, and a head of two layers that gives unit projections."""

    def __init__(self, network, channels):
        super().__init__()
        layers, ends = BACKBONES[network](channels), STAGE_ENDS[network]
        self.stages = nn.ModuleList(layers[start:end] for start, end in pairwise((0, *ends)))
        self.pool = layers[ends[-1] :]
        self.head = nn.Sequential(nn.Linear(FEATURES[network], 512), nn.ReLU(inplace=True), nn.Linear(512, 128))

    def forward(self, images):
        """Projections and the map after each stage."""
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return functional.normalize(self.head(self.pool(x)), dim=1), maps


class Cosines(nn.Module):
    """Cosines of embeddings and class prototypes."""

    def __init__(self, features, classes):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(classes, features))

    def forward(self, embedding):
        """One cosine for each class."""
        return functional.normalize(embedding, dim=-1) @ functional.normalize(self.prototypes, dim=-1).T


# ---------------------------------------------------------------------------------------------- backbones


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


# ---------------------------------------------------------------------------------------------- blocks


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
STAGE_ENDS = {"small_cnn": (3, 6, 12), "resnet18": (5, 7, 9, 11)}  # layers up to the end of each stage
