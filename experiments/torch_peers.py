"""PyTorch peers of experiments/speed.py, written plainly.

Training: the same networks, loss, augmentation and optimiser. Jacobian norms: the same networks in eval mode, and the
three routes that PyTorch offers to the whole matrix. GradMix: the same networks, losses and optimiser, once as its
steps are told and once in the order of ours.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def training_steps(
    network: str, *, batch: int, image_shape: tuple[int, int, int], classes: int, hyper: dict[str, float]
) -> dict[str, Callable[[], float]]:
    """Training steps of a network, one for each memory format: calling one makes a step and gives its loss."""
    return {
        f"torch, {name}": _training_step(network, batch, image_shape, classes, hyper, memory_format)
        for name, memory_format in MEMORY_FORMATS.items()
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


def gradmix_steps(
    network: str, *, batch: int, image_shape: tuple[int, int, int], classes: int, hyper: dict[str, float]
) -> dict[str, dict[str, Callable[[], float]]]:
    """GradMix training steps on given views: those of the plain form and of the fast one, for each memory format."""
    forms = {"plain": ("plain", plain_gradmix_gradients), "fast": ("our algorithm", fast_gradmix_gradients)}
    return {
        form: {
            f"torch, {words}, {name}": _gradmix_step(gradients, network, batch, image_shape, classes, hyper, layout)
            for name, layout in MEMORY_FORMATS.items()
        }
        for form, (words, gradients) in forms.items()
    }


def _gradmix_step(gradients, network, batch, image_shape, classes, hyper, memory_format):
    torch.manual_seed(0)
    height, width, channels = image_shape
    model = ContrastiveNetwork(network, channels).train().to(memory_format=memory_format)
    optimizer = torch.optim.Adam(model.parameters(), lr=hyper["learning_rate"], fused=True)
    first, second = (
        (2.0 * torch.rand(batch, channels, height, width) - 1.0).contiguous(memory_format=memory_format)
        for _ in range(2)
    )
    labels = torch.arange(batch) % classes

    def step() -> float:
        kept, noise = 0.5 + 0.4 * torch.rand(()).item(), torch.rand(batch, 1, height, width)
        optimizer.zero_grad()
        loss = gradients(model, first, second, labels, kept, noise, temperature=hyper["temperature"])
        optimizer.step()
        return loss.item()

    return step


def plain_gradmix_gradients(
    model: nn.Module,
    first: torch.Tensor,
    second: torch.Tensor,
    labels: torch.Tensor,
    kept: float,
    noise: torch.Tensor,
    *,
    temperature: float,
) -> torch.Tensor:
    """Loss and gradients of GradMix, written plainly: maps from a forward pass of their own, boxes image by image.

    The parameters keep their gradients. ``kept`` is the share of an image outside its box, ``noise`` what fills it.
    """
    views, pair = torch.cat([first, second]), torch.arange(len(labels)).repeat(2)
    projection, _ = model(views)
    again, maps = model(views)
    for chosen in maps[-3:]:
        chosen.retain_grad()
    contrastive_loss(again, again, pair, temperature).backward()
    size = first.shape[-2:]
    cam = sum(_upsampled_cam(chosen, chosen.grad, size) for chosen in maps[-3:])
    model.zero_grad()
    (height, width), masked = _box_sides(size, kept), first.clone()
    for i in range(len(first)):
        row, column = divmod(int(cam[i].argmax()), size[1])
        rows = slice(max(row - height // 2, 0), row + height // 2)
        columns = slice(max(column - width // 2, 0), column + width // 2)
        masked[i, :, rows, columns] = noise[i, :, rows, columns]
    mixed, _ = model(torch.cat([masked, second]))
    return _gradmix_backward(projection, mixed, labels.repeat(2), pair, 1 - height * width / size.numel(), temperature)


def fast_gradmix_gradients(
    model: nn.Module,
    first: torch.Tensor,
    second: torch.Tensor,
    labels: torch.Tensor,
    kept: float,
    noise: torch.Tensor,
    *,
    temperature: float,
) -> torch.Tensor:
    """The same by our algorithm: one clean forward pass for maps and loss, and view 2 is not embedded again."""
    pair, size = torch.arange(len(labels)).repeat(2), first.shape[-2:]
    projection, maps = model(torch.cat([first, second]))
    with torch.no_grad():
        pull = nt_xent_gradient(projection, pair, temperature)
    # With the maps as inputs the engine computes no gradient of a weight.
    pulled = torch.autograd.grad(projection, maps[-3:], grad_outputs=pull, retain_graph=True)
    with torch.no_grad():
        cam = sum(_upsampled_cam(chosen, gradient, size) for chosen, gradient in zip(maps[-3:], pulled, strict=True))
        height, width = _box_sides(size, kept)
        peaks = cam[: len(first)].flatten(1).argmax(1)
        row, column = (index[:, None] for index in (peaks // size[1], peaks % size[1]))
        rows, columns = torch.arange(size[0]), torch.arange(size[1])
        inside_rows = (row - height // 2 <= rows) & (rows < row + height // 2)
        inside_columns = (column - width // 2 <= columns) & (columns < column + width // 2)
        box = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
        masked = torch.where(box, noise, first)
    mixed = torch.cat([model(masked)[0], projection[len(first) :]])
    return _gradmix_backward(projection, mixed, labels.repeat(2), pair, 1 - height * width / size.numel(), temperature)


def _upsampled_cam(activations, gradients, size):
    cam = (activations.detach() * functional.relu(gradients)).sum(1, keepdim=True)
    cam = (cam - cam.min()) / (cam.max() - cam.min() + 1e-8)
    return functional.interpolate(cam, size=size, mode="bilinear")[:, 0]


def _box_sides(size, kept):
    return tuple(int(length * math.sqrt(1.0 - kept)) for length in size)


def _gradmix_backward(projection, mixed, labels, pair, weight, temperature):
    loss = contrastive_loss(projection, projection, labels, temperature)
    loss = loss + contrastive_loss(projection, projection, pair, temperature)
    loss = loss + weight * contrastive_loss(projection, mixed, pair, temperature)
    loss.backward()
    return loss.detach()


def contrastive_loss(
    anchors: torch.Tensor, positives: torch.Tensor, groups: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Mean contrastive loss; rows of one group are each other's positives, all other anchors the denominator."""
    self_pairs = torch.eye(len(anchors), dtype=torch.bool)
    logits = (anchors @ anchors.T / temperature).masked_fill(self_pairs, -math.inf)
    log_probability = anchors @ positives.T / temperature - torch.logsumexp(logits, 1, keepdim=True)
    positive = (groups[:, None] == groups[None]).masked_fill(self_pairs, False).to(anchors.dtype)
    return -(temperature / 0.07) * ((positive * log_probability).sum(1) / positive.sum(1)).mean()


def nt_xent_gradient(projection: torch.Tensor, pair: torch.Tensor, temperature: float) -> torch.Tensor:
    """Gradient of the mean NT-Xent loss of two views with respect to the projections, in closed form."""
    self_pairs = torch.eye(len(projection), dtype=torch.bool)
    probability = (projection @ projection.T / temperature).masked_fill(self_pairs, -math.inf).softmax(1)
    positive = (pair[:, None] == pair[None]).masked_fill(self_pairs, False)
    excess = probability - positive.to(probability.dtype)
    return (excess + excess.T) @ projection / (0.07 * len(projection))


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
STAGE_ENDS = {"small_cnn": (3, 6, 12), "resnet18": (5, 7, 9, 11)}  # layers up to the end of each stage
