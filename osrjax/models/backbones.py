"""Convolutional backbones: ``(images, *, train, taps) -> (stage maps, raw embedding)``."""

import math
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# The two layers that every backbone is made of.
from flax.linen import BatchNorm, Conv
from jax.typing import DTypeLike
from scipy.fft import dct

from osrjax.choices import load
from osrjax.models.table import BACKBONES

__all__ = ["NETWORKS", "Classifier32", "FastCNN", "ResNet", "SmallCNN", "WideResNet"]


class SmallCNN(nn.Module):
    """Four 3x3 convolutions in three stages, then a linear layer: for small images and small machines.

    The stages have 1, 1 and 2 convolutions of ``width``, ``2 width`` and ``4 width`` channels, each followed
    by batch norm and ReLU; the first of each stage has stride 2. The raw embedding is a linear function of
    the last map's average. A 28 x 28 x 1 image costs 4.5 million multiply-adds. Striding at once keeps
    wide convolutions on small maps, which a CPU runs well; narrow ones on large maps it runs badly.

    Attributes:
        width: channels of the first stage.
        features: length of the embedding.
        dtype: compute dtype.
    """

    width: int = 32
    features: int = 128
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        """Stage maps and raw embedding; arguments as in :class:`OpenSetNetwork`."""
        x, maps = images, ()
        for stage, strides in enumerate(((2,), (2,), (2, 1))):
            for stride in strides:
                x = _conv(self.width * 2**stage, stride=stride, dtype=self.dtype)(x)
                x = nn.relu(_norm(train, self.dtype)(x))
            x = _tapped(x, taps, stage)
            maps += (x,)
        return maps, nn.Dense(self.features, dtype=self.dtype)(_average(x))


class FastCNN(nn.Module):
    """Six 3x3 convolutions in three stages, for a real accuracy on 32 x 32 images in minutes of a small machine.

    It begins with fixed numbers: the 2x2 patches of the images in the basis of the discrete cosine transform over
    rows, columns and channels, which decorrelates natural images, each coefficient brought to variance 1 and taken
    with both signs; then a bias and ReLU. In each stage a convolution, max pooling by 2, batch norm and ReLU, and a
    convolution, batch norm and ReLU. The raw embedding is the average of the last map, ``widths[-1]`` entries. Most
    convolutions see maps that are already pooled; each begins as the identity as far as its channels go.

    Attributes:
        widths: channels of the stages.
        dtype: compute dtype.

    References:
        Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, section 3: layout, whitening and
        identity; there the whitening comes from training images, the activation is GELU.
    """

    widths: tuple[int, int, int] = (32, 96, 192)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        """Stage maps and raw embedding; arguments as in :class:`OpenSetNetwork`."""
        conv = partial(_conv, dtype=self.dtype, kernel_init=_identity_first)
        x, maps = _whitened(images, train, self.dtype), ()
        x = jnp.concatenate([x, -x], axis=-1)
        x = nn.relu(x + self.param("bias", nn.initializers.zeros, x.shape[-1:]).astype(self.dtype)[None, None, None])
        for stage, width in enumerate(self.widths):
            x = _pooled(conv(width)(x))
            x = nn.relu(_norm(train, self.dtype)(x))
            x = nn.relu(_norm(train, self.dtype)(conv(width)(x)))
            x = _tapped(x, taps, stage)
            maps += (x,)
        return maps, _average(x)


class Classifier32(nn.Module):
    """The nine-convolution network that most open-set papers compare on.

    Three stages of three 3x3 convolutions, the third with stride 2: 64, 64, 128 channels, then 128 in the
    other two stages; each is followed by batch norm and a leaky ReLU of slope 0.2. The raw embedding is the
    average of the last map over its pixels, 128 entries. Differs from Neal et al.: that average replaces
    their linear layer on the flattened map, as in the code of ARPL (arXiv 2103.00953), and the dropout
    before each stage is left out.

    References:
        Neal et al., Open Set Learning with Counterfactual Images, ECCV 2018 (the encoder's table).
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        """Stage maps and raw embedding; arguments as in :class:`OpenSetNetwork`."""
        x, maps = images, ()
        for stage, widths in enumerate(((64, 64, 128), (128, 128, 128), (128, 128, 128))):
            for width, stride in zip(widths, (1, 1, 2), strict=True):
                x = _conv(width, stride=stride, dtype=self.dtype)(x)
                x = nn.leaky_relu(_norm(train, self.dtype)(x), 0.2)
            x = _tapped(x, taps, stage)
            maps += (x,)
        return maps, _average(x)


class WideResNet(nn.Module):
    """Wide residual network with pre-activation blocks.

    A 3x3 convolution to 16 channels, then three stages of ``n`` blocks with ``16, 32, 64`` times ``widen``
    channels and strides 1, 2, 2, where ``depth = 6 n + 4``. The raw embedding is the average of the last
    map, ``64 widen`` entries.

    Every stage map is taken behind the batch norm and ReLU that follow the stage's last sum: the next stage
    reads nothing else (its first block projects its shortcut from the activated map too), and maps of
    attribution have to be non-negative.

    Attributes:
        depth: number of convolutions on the longest path, plus the classifier: 10, 16, 22, 28, 34, 40, ...
        widen: widening factor.
        dtype: compute dtype.

    References:
        Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016, arXiv 1605.07146, table 1.
    """

    depth: int = 16
    widen: int = 4
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth={self.depth!r} is not 6 n + 4: use 10, 16, 22, 28 or 40")
        super().__post_init__()

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        """Stage maps and raw embedding; arguments as in :class:`OpenSetNetwork`."""
        maps = ()
        x = _conv(16, dtype=self.dtype)(images)
        activated = nn.relu(_norm(train, self.dtype)(x))
        for stage in range(3):
            for block in range((self.depth - 4) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                x = _PreActivationBlock(16 * self.widen * 2**stage, stride, self.dtype)(x, activated, train)
                activated = nn.relu(_norm(train, self.dtype)(x))
            activated = _tapped(activated, taps, stage)
            maps += (activated,)
        return maps, _average(activated)


class _PreActivationBlock(nn.Module):
    width: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x, activated, train):
        y = _conv(self.width, stride=self.stride, dtype=self.dtype)(activated)
        y = nn.relu(_norm(train, self.dtype)(y))
        y = _conv(self.width, dtype=self.dtype)(y)
        if x.shape != y.shape:
            x = _conv(self.width, kernel=1, stride=self.stride, dtype=self.dtype)(activated)
        return x + y


class ResNet(nn.Module):
    """Residual network of 18, 34 (basic blocks) or 50 layers (bottleneck blocks).

    Four stages of 1, 2, 4, 8 times ``width`` channels (times 4 with bottlenecks) and strides 1, 2, 2, 2. The raw
    embedding is the average of the last map, 512 or 2048 entries at the usual width of 64. Bottlenecks stride
    in their 3x3 convolution; no scale starts at zero.

    Attributes:
        depth: 18, 34 or 50.
        stem: "cifar", a 3x3 convolution; or "imagenet", a 7x7 convolution with stride 2, then a 3x3 max
            pool with stride 2.
        dtype: compute dtype.
        width: channels of the first stage; 16 makes a network of 1/16 of the cost for small machines.

    References:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385, table 1.
    """

    depth: int = 18
    stem: Literal["cifar", "imagenet"] = "cifar"
    dtype: DTypeLike = jnp.float32
    width: int = 64

    def __post_init__(self):
        if self.depth not in _RESNET_BLOCKS:
            raise ValueError(f"depth={self.depth!r} is not built here: use 18, 34 or 50")
        if self.width < 1:
            raise ValueError(f"width={self.width!r} is no layer: use at least 1, 64 as published")
        if self.stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem={self.stem!r} is not a stem: use 'cifar' or 'imagenet'")
        super().__post_init__()

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        """Stage maps and raw embedding; arguments as in :class:`OpenSetNetwork`."""
        cifar = self.stem == "cifar"
        x = _conv(self.width, kernel=3 if cifar else 7, stride=1 if cifar else 2, dtype=self.dtype)(images)
        x = nn.relu(_norm(train, self.dtype)(x))
        if not cifar:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        maps = ()
        for stage, blocks in enumerate(_RESNET_BLOCKS[self.depth]):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = _ResidualBlock(self.width * 2**stage, stride, self.depth == 50, self.dtype)(x, train)
            x = _tapped(x, taps, stage)
            maps += (x,)
        return maps, _average(x)


_RESNET_BLOCKS = MappingProxyType({18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)})


class _ResidualBlock(nn.Module):
    width: int
    stride: int
    bottleneck: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x, train):
        if self.bottleneck:  # (channels, kernel, stride) of each convolution
            plan = ((self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1))
        else:
            plan = ((self.width, 3, self.stride), (self.width, 3, 1))
        y = x
        for i, (width, kernel, stride) in enumerate(plan):
            y = nn.relu(y) if i else y
            y = _conv(width, kernel=kernel, stride=stride, dtype=self.dtype)(y)
            y = _norm(train, self.dtype)(y)
        if x.shape != y.shape:
            x = _conv(y.shape[-1], kernel=1, stride=self.stride, dtype=self.dtype)(x)
            x = _norm(train, self.dtype)(x)
        return nn.relu(x + y)


wide_resnet_16_4 = partial(WideResNet, depth=16, widen=4)
resnet18_w16 = partial(ResNet, depth=18, width=16)
resnet18 = partial(ResNet, depth=18)
resnet34 = partial(ResNet, depth=34)
resnet50 = partial(ResNet, depth=50)

NETWORKS: dict[str, Callable[..., nn.Module]] = {name: load(path) for name, path in BACKBONES.items()}


def _conv(width, *, kernel=3, stride=1, dtype, kernel_init=None):
    # Explicit padding: "SAME" would shift strided convolutions by a pixel against the PyTorch originals.
    pad = (kernel - 1) // 2
    return Conv(
        width,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        dtype=dtype,
        kernel_init=kernel_init or _he_normal_fan_out,
    )


def _he_normal_fan_out(key, shape, dtype=jnp.float32):
    # He et al. 2015 (arXiv 1502.01852), eq. 14: variance 2 / fan-out. Drawn flat: XLA for CPU takes ten times
    # as long to compile a four-dimensional draw.
    deviation = math.sqrt(2.0 / (math.prod(shape[:-2]) * shape[-1]))
    return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def _identity_first(key, shape, dtype=jnp.float32):
    # The other filters as PyTorch draws them, here normal: variance 1 / (3 fan-in).
    *window, inputs, outputs = shape
    deviation = 1.0 / math.sqrt(3 * math.prod(window) * inputs)
    kernel = deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
    same = jnp.arange(min(inputs, outputs))
    kernel = kernel.at[..., same].set(0.0)
    return kernel.at[window[0] // 2, window[1] // 2, same, same].set(1.0)


def _norm(train, dtype, *, epsilon=1e-5, affine=True):
    # Inside a shard_map the compiler does not know that the rows of other devices belong to the batch.
    apart = train and "data" in jax.sharding.get_abstract_mesh().manual_axes
    return BatchNorm(
        use_running_average=not train,
        axis_name="data" if apart else None,
        momentum=0.9,
        epsilon=epsilon,
        dtype=dtype,
        use_bias=affine,
        use_scale=affine,
    )


def _whitened(images, train, dtype):
    """Coefficients of every 2x2 patch in a cosine basis, at variance 1; no parameters."""
    channels = images.shape[-1]
    rows, columns, colours = (dct(np.eye(size), norm="ortho", axis=0) for size in (2, 2, channels))
    basis = np.einsum("ai,bj,ck->ijkabc", rows, columns, colours).reshape(2, 2, channels, 4 * channels)
    patches = jax.lax.conv_general_dilated(
        images.astype(dtype), jnp.asarray(basis, dtype), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return _norm(train, dtype, epsilon=1e-4, affine=False)(patches)  # the finest colours hardly vary: not only noise


def _tapped(x, taps, stage):
    if taps is None or stage >= len(taps):  # too few taps: OpenSetNetwork says so
        return x
    if taps[stage].shape != x.shape:
        raise ValueError(f"taps[{stage}] has shape {taps[stage].shape}, its map {x.shape}: use zero_taps")
    return x + taps[stage].astype(x.dtype)


def _pooled(x):
    """Maximum over tiles of 2 x 2, without a last odd row or column; a map of one pixel stays."""
    batch, height, width, channels = x.shape
    rows, columns = max(1, height // 2), max(1, width // 2)
    tall, wide = min(height, 2), min(width, 2)
    x = x[:, : rows * tall, : columns * wide]
    # Tiles by reshaping: XLA for CPU runs the gradient of a windowed maximum slowly.
    return jnp.max(x.reshape(batch, rows, tall, columns, wide, channels), axis=(2, 4))


def _average(x):
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
