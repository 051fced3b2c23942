"""PyTorch peers of experiments/speed.py, written plainly; this file needs PyTorch and nothing of ours.

Training: the same networks, loss, augmentation and optimiser. Jacobian norms: the same networks in eval mode, and the
three routes that PyTorch offers to the whole matrix. GradMix: the same networks, losses and optimiser, once as its
steps are told and once in the order of ours.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional
from torch_networks import BACKBONES, FEATURES, ContrastiveNetwork, Cosines
from turns import Work

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def facts() -> dict[str, Any]:
    """What the peers run on."""
    return {"versions": {"torch": torch.__version__.partition("+")[0]}, "torch_threads": torch.get_num_threads()}


# ---------------------------------------------------------------------------------------------- training


def training_steps(
    network: str, *, batch: int, image_shape: tuple[int, int, int], classes: int, hyper: dict[str, float]
) -> Work:
    """Training steps of a network, one for each memory format: calling one makes a step and gives its loss."""
    calls = {
        f"torch, {name}": training_step(network, batch, image_shape, classes, hyper, name) for name in MEMORY_FORMATS
    }
    return Work(calls, facts())


def training_step(network, batch, image_shape, classes, hyper, layout, *, device="cpu", dtype="float32"):
    """A training step in a memory format, on a device, in float32 or under autocast to another dtype."""
    torch.manual_seed(0)
    height, width, channels = image_shape
    model = nn.Sequential(BACKBONES[network](channels), Cosines(FEATURES[network], classes))
    memory_format = MEMORY_FORMATS[layout]
    model.train().to(device, memory_format=memory_format)
    _autocast(model, device, dtype)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": hyper["weight_decay"]}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=hyper["learning_rate"], momentum=0.9, fused=True)
    pixels = torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, device=device)
    labels = torch.arange(batch, device=device) % classes

    def step() -> torch.Tensor:
        images = crop_and_flip(pixels.float() / 127.5 - 1.0).contiguous(memory_format=memory_format)
        loss = m_ovr_loss(model(images).float(), labels, margin=hyper["margin"], scale=hyper["scale"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _autocast(model, device, dtype):
    """Lets the model's forward passes compute in another dtype than float32."""
    if dtype != "float32":
        model.forward = torch.autocast(device, getattr(torch, dtype))(model.forward)


def crop_and_flip(images: torch.Tensor, padding: int = 4) -> torch.Tensor:
    """Random crop after padding and random mirroring: one gather for the whole batch."""
    batch, channels, height, width = images.shape
    images = functional.pad(images, (padding,) * 4, value=-1.0)
    device = images.device
    corners = torch.randint(0, 2 * padding + 1, (2, batch, 1), device=device)
    rows, columns = (
        corner + torch.arange(n, device=device) for corner, n in zip(corners, (height, width), strict=True)
    )
    columns = torch.where(torch.rand(batch, 1, device=device) < 0.5, columns.flip(1), columns)
    image, channel = (torch.arange(n, device=device) for n in (batch, channels))
    image, channel = image[:, None, None, None], channel[None, :, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def m_ovr_loss(cosines: torch.Tensor, labels: torch.Tensor, *, margin: float, scale: float) -> torch.Tensor:
    """Margin one-vs-rest loss per example."""
    sines = (1.0 - cosines.square()).clamp(min=1e-12).sqrt()
    logits = scale * (cosines * math.cos(margin) - sines * math.sin(margin))
    is_target = functional.one_hot(labels, logits.shape[-1]).bool()
    return functional.softplus(torch.where(is_target, -logits, logits)).sum(-1)


# ---------------------------------------------------------------------------------------------- Jacobian norms


def jacobian_norms(network: str, *, batch: int, image_shape: tuple[int, int, int], device: str = "cpu") -> Work:
    """Exact input-Jacobian norms of the unit embedding of a batch, one callable for each route and memory format."""
    torch.manual_seed(0)
    height, width, channels = image_shape
    images = 2.0 * torch.rand(batch, channels, height, width, device=device) - 1.0
    model, channels_last = (BACKBONES[network](channels).eval().requires_grad_(False).to(device) for _ in range(2))
    channels_last.to(memory_format=torch.channels_last)
    images_last = images.contiguous(memory_format=torch.channels_last)
    calls = {
        "torch, loop over outputs": lambda: loop_norms(model, images),
        "torch, loop, channels_last": lambda: loop_norms(channels_last, images_last),
        "torch, vmap(jacrev), chunk 32": lambda: jacrev_norms(model, images, chunk_size=32),
        "torch, vmap(jacrev)": lambda: jacrev_norms(model, images, chunk_size=None),
    }
    return Work(calls, facts())


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


# ---------------------------------------------------------------------------------------------- GradMix


def gradmix_steps(
    network: str, *, batch: int, image_shape: tuple[int, int, int], classes: int, hyper: dict[str, float]
) -> Work:
    """GradMix training steps on given views, for each memory format; the fact ``forms`` names those of either form."""
    forms = {"plain": ("plain", plain_gradmix_gradients), "fast": ("our algorithm", fast_gradmix_gradients)}
    calls, names = {}, {}
    for form, (words, gradients) in forms.items():
        names[form] = [f"torch, {words}, {name}" for name in MEMORY_FORMATS]
        for who, layout in zip(names[form], MEMORY_FORMATS, strict=True):
            calls[who] = gradmix_step(gradients, network, batch, image_shape, classes, hyper, layout)
    return Work(calls, {**facts(), "forms": names})


def gradmix_step(gradients, network, batch, image_shape, classes, hyper, layout, *, device="cpu", dtype="float32"):
    """A GradMix step by a form of its gradients, otherwise as :func:`training_step`."""
    torch.manual_seed(0)
    height, width, channels = image_shape
    memory_format = MEMORY_FORMATS[layout]
    model = ContrastiveNetwork(network, channels).train().to(device, memory_format=memory_format)
    _autocast(model, device, dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=hyper["learning_rate"], fused=True)
    first, second = (
        (2.0 * torch.rand(batch, channels, height, width, device=device) - 1.0).contiguous(memory_format=memory_format)
        for _ in range(2)
    )
    labels = torch.arange(batch, device=device) % classes

    def step() -> torch.Tensor:
        kept, noise = 0.5 + 0.4 * torch.rand(()).item(), torch.rand(batch, 1, height, width, device=device)
        optimizer.zero_grad()
        loss = gradients(model, first, second, labels, kept, noise, temperature=hyper["temperature"])
        optimizer.step()
        return loss.detach()

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
    views, pair = torch.cat([first, second]), torch.arange(len(labels), device=labels.device).repeat(2)
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
    pair, size = torch.arange(len(labels), device=labels.device).repeat(2), first.shape[-2:]
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
        rows, columns = (torch.arange(length, device=row.device) for length in size)
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
    self_pairs = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
    logits = (anchors @ anchors.T / temperature).masked_fill(self_pairs, -math.inf)
    log_probability = anchors @ positives.T / temperature - torch.logsumexp(logits, 1, keepdim=True)
    positive = (groups[:, None] == groups[None]).masked_fill(self_pairs, False).to(anchors.dtype)
    return -(temperature / 0.07) * ((positive * log_probability).sum(1) / positive.sum(1)).mean()


def nt_xent_gradient(projection: torch.Tensor, pair: torch.Tensor, temperature: float) -> torch.Tensor:
    """Gradient of the mean NT-Xent loss of two views with respect to the projections, in closed form."""
    self_pairs = torch.eye(len(projection), dtype=torch.bool, device=projection.device)
    probability = (projection @ projection.T / temperature).masked_fill(self_pairs, -math.inf).softmax(1)
    positive = (pair[:, None] == pair[None]).masked_fill(self_pairs, False)
    excess = probability - positive.to(probability.dtype)
    return (excess + excess.T) @ projection / (0.07 * len(projection))
