"""Contrastive losses on unit embeddings: NT-Xent, SupCon and the mixed term of GradMix, as one functional.

*Views* are arrays of shape ``[views, batch, features]``: the same images, each augmented ``views`` times. Every row is
an *anchor*, and every other row stands in its denominator. Every loss returns one value per anchor, in float32 or
better; the caller averages.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from osrjax.arrays import at_least_float32, check_integers

__all__ = ["contrastive_loss", "mixed_contrastive_loss", "nt_xent_gradient", "nt_xent_loss", "supcon_loss"]

Scalar = float | Float[Array, ""]


BASE_TEMPERATURE = 0.07  # losses are multiplied by T / 0.07, as in the SupCon authors' code


HIGHEST = jax.lax.Precision.HIGHEST


def contrastive_loss(
    embedding: Float[Array, "rows features"],
    groups: Integer[Array, " rows"],
    *,
    positives: Float[Array, "rows features"] | None = None,
    own_positive: bool | Bool[Array, " rows"] = False,
    temperature: Scalar = 0.05,
    base_temperature: float = BASE_TEMPERATURE,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, " rows"]:
    r"""The functional behind every loss of this module, one value per anchor a.

    .. math:: L_a = \frac{T}{T_0} \Big( \log \sum_{b \ne a} e^{z_a \cdot z_b / T}
              - \frac{1}{|P_a|} \sum_{b \in P_a} z_a \cdot p_b / T \Big),
              \qquad P_a = \{b \ne a : g_b = g_a\}.

    The denominator holds the embeddings z alone, positive pairs included; p stands on the positive side alone.
    Gradients flow into z on both sides and into p. An anchor without a positive has the loss 0.

    *Cost*: ``4 rows^2 features`` operations, half of that without ``positives``; one or two matrices of ``rows x
    rows``, or of ``rows x block_size``, which the backward pass computes again. All products run at HIGHEST precision.

    Args:
      embedding: z, rows of norm 1.
      groups: g, equal for a positive pair: the number of the image or its label.
      positives: p, rows of norm 1; None for z itself.
      own_positive: True if the anchor's own row of p counts as a positive too, which requires ``positives``; or one
        entry per anchor.
      temperature: T, above 0.
      base_temperature: T_0, above 0; a constant factor.
      block_size: columns at a time; None for all at once.
      axis_name: inside ``jax.shard_map``, the mesh axis over which rows are spread: the anchors of a device meet the
        rows of all devices, in one all-gather of each array.

    Returns:
      One loss per anchor, of either sign if p differs from z.

    Raises:
      ValueError: a single row; not one integer group per row; ``positives`` of another shape, or missing though
        ``own_positive`` requires them; a ``block_size`` below 1; a Python number at or below 0 for a temperature (an
        array there gives nan).

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> loss = contrastive_loss(z, jnp.array([0, 0, 1, 1]), temperature=1.0, base_temperature=1.0)
      >>> round(float(loss[0]), 4)  # log(e + 1 + 1) - 1
      0.5514

    References:
      Khosla et al., "Supervised Contrastive Learning", arXiv 2004.11362, eq. 2; with p: Xu et al., "Informed Mixing",
      arXiv 2505.12803, as its code computes it.
    """
    temperature = _checked_temperature("temperature", temperature)
    _checked_temperature("base_temperature", base_temperature)
    _check_block_size(block_size)
    check_integers("groups", groups)
    if embedding.ndim != 2 or groups.shape != embedding.shape[:1]:
        raise ValueError(f"{groups.shape=} does not fit {embedding.shape=}: give one group per row of features")
    if positives is not None and positives.shape != embedding.shape:
        raise ValueError(f"{positives.shape=} is not {embedding.shape=}: give one positive row for each embedding")
    if own_positive is not False and positives is None:
        raise ValueError(f"{own_positive=} without positives would pull each row to itself: give positives")
    rows = embedding.shape[0]
    if own_positive is not False and jnp.shape(own_positive) not in ((), (rows,)):
        given = jnp.shape(own_positive)
        raise ValueError(f"own_positive has shape {given}, not {(rows,)}: give one entry per row, or one for all")
    embedding = at_least_float32(embedding)
    positives = None if positives is None else at_least_float32(positives)
    places = jnp.arange(rows)
    columns, column_places, column_groups = embedding, places, groups
    if axis_name is not None:
        gather = partial(jax.lax.all_gather, axis_name=axis_name, tiled=True)
        places = places + rows * jax.lax.axis_index(axis_name)
        columns, column_places, column_groups = gather(embedding), gather(places), gather(groups)
        positives = None if positives is None else gather(positives)
    if columns.shape[0] < 2:
        raise ValueError(f"{embedding.shape=} holds one row, which has no other to differ from: give 2 or more")

    def similarities(candidates: Array) -> Array:
        return jnp.matmul(embedding, candidates.T, precision=HIGHEST) / temperature

    def others(candidate_places: Array) -> Bool[Array, "..."]:
        return places[:, None] != candidate_places[None, :]

    def positives_among(other: Bool[Array, "..."], candidate_groups: Array) -> Bool[Array, "..."]:
        alike = groups[:, None] == candidate_groups[None, :]
        own = jnp.broadcast_to(own_positive, (rows,)).astype(bool)
        return alike & (other | own[:, None])

    if block_size is None:
        # Without names of axes the compiler spreads rows: places that serve rows and columns it would gather.
        other = ~jnp.eye(rows, dtype=bool) if axis_name is None else others(column_places)
        positive = positives_among(other, column_groups)
        against = similarities(columns)
        towards = against if positives is None else similarities(positives)
        log_sum = jax.nn.logsumexp(against, axis=1, where=other)
        pulled, count = jnp.sum(jnp.where(positive, towards, 0.0), axis=1), jnp.sum(positive, axis=1)
    else:
        padding = -columns.shape[0] % block_size
        dtype = jnp.result_type(embedding, temperature)
        lowest = jnp.finfo(dtype).min

        def blocks(array: Array, fill: int = 0) -> Array:
            pad = [(0, padding)] + [(0, 0)] * (array.ndim - 1)
            return jnp.pad(array, pad, constant_values=fill).reshape(-1, block_size, *array.shape[1:])

        @jax.checkpoint  # without it the backward pass would keep every block: the whole matrix
        def add_block(carry: tuple[Array, ...], block: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
            largest, total, pulled, count = carry
            candidates, candidate_positives, candidate_places, candidate_groups = block
            other = others(candidate_places)
            positive = positives_among(other, candidate_groups)
            exists = candidate_places[None, :] >= 0
            against = jnp.where(other & exists, similarities(candidates), lowest)
            towards = against if positives is None else similarities(candidate_positives)
            # The maximum only shifts exponents: what it contributes to the gradient cancels.
            new_largest = jnp.maximum(largest, jax.lax.stop_gradient(jnp.max(against, axis=1)))
            total = total * jnp.exp(largest - new_largest) + jnp.sum(jnp.exp(against - new_largest[:, None]), axis=1)
            pulled = pulled + jnp.sum(jnp.where(positive & exists, towards, 0.0), axis=1)
            return (new_largest, total, pulled, count + jnp.sum(positive & exists, axis=1, dtype=jnp.int32)), None

        # On a mesh it varies over the axis, as the sums do.
        zero = 0.0 * jax.lax.stop_gradient(embedding[:, 0]).astype(dtype)
        start = (zero + lowest, zero, zero, zero.astype(jnp.int32))
        candidate_positives = columns if positives is None else positives
        parts = (blocks(columns), blocks(candidate_positives), blocks(column_places, -1), blocks(column_groups))
        (largest, total, pulled, count), _ = jax.lax.scan(add_block, start, parts)
        log_sum = largest + jnp.log(total)
    mean_pull = pulled / jnp.maximum(count, 1)
    return jnp.where(count > 0, log_sum - mean_pull, 0.0) * (temperature / base_temperature)


def nt_xent_loss(
    views: Float[Array, "views batch features"],
    *,
    temperature: Scalar = 0.05,
    base_temperature: float = BASE_TEMPERATURE,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, "views batch"]:
    """NT-Xent (SimCLR): the positives of an anchor are the other views of its image.

    Options, cost and errors are those of :func:`contrastive_loss`.

    Args:
      views: unit embeddings of at least two views of at least two images.
      temperature: T, above 0.
      base_temperature: T_0; 0.07 multiplies SimCLR's own loss by T / 0.07.
      block_size: columns at a time.
      axis_name: mesh axis over which the images of a batch are spread.

    Returns:
      One loss per anchor, at least 0.

    Raises:
      ValueError: fewer than two views, or one image, which has no negatives.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
      >>> loss = nt_xent_loss(views, temperature=1.0, base_temperature=1.0)
      >>> round(float(loss[0, 0]), 4)  # log(e + 1 + 1) - 1
      0.5514

    References:
      Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", arXiv 2002.05709, eq. 1.
    """
    _check_views(views, axis_name)
    return _by_view(
        views,
        _images(views, axis_name),
        temperature=temperature,
        base_temperature=base_temperature,
        block_size=block_size,
        axis_name=axis_name,
    )


def supcon_loss(
    views: Float[Array, "views batch features"],
    labels: Integer[Array, " batch"],
    *,
    temperature: Scalar = 0.05,
    base_temperature: float = BASE_TEMPERATURE,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, "views batch"]:
    """SupCon: the positives of an anchor are all other rows of its class, in any view.

    Options, cost and errors are those of :func:`contrastive_loss`.

    Args:
      views: unit embeddings of one or more views.
      labels: class of each image.
      temperature: T, above 0.
      base_temperature: T_0.
      block_size: columns at a time.
      axis_name: mesh axis over which the images of a batch are spread.

    Returns:
      One loss per anchor; 0 for the only row of its class.

    Raises:
      ValueError: not one label per image; one row.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
      >>> loss = supcon_loss(views, jnp.array([4, 4, 5]), temperature=1.0, base_temperature=1.0)
      >>> [round(float(value), 4) for value in loss[0]]  # log(e + 1) - 1; the third has no positive
      [0.3133, 0.3133, 0.0]

    References:
      Khosla et al., "Supervised Contrastive Learning", arXiv 2004.11362, eq. 2 (L_out).
    """
    _check_labels(views, labels)
    return _by_view(
        views,
        labels,
        temperature=temperature,
        base_temperature=base_temperature,
        block_size=block_size,
        axis_name=axis_name,
    )


def mixed_contrastive_loss(
    views: Float[Array, "views batch features"],
    mixed: Float[Array, "views batch features"],
    *,
    labels: Integer[Array, " batch"] | None = None,
    own_positive: bool | Bool[Array, " views"] = False,
    temperature: Scalar = 0.05,
    base_temperature: float = BASE_TEMPERATURE,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, "views batch"]:
    """The mixed term of GradMix: anchors and denominators are clean embeddings, positives those of mixed views.

    An anchor meets the mixed version of the *other* views: if view 1 alone is mixed, only the anchors of view 2 meet
    it. Options, cost and errors are those of :func:`contrastive_loss`.

    Args:
      views: unit embeddings z of the clean views.
      mixed: unit embeddings p of the mixed views, in the same places; an unmixed view stands for itself.
      labels: class of each image, for positives of the same class; None for positives of the same image.
      own_positive: True if an anchor meets the mixed version of its own view too; or one entry per view, since an
        unmixed view would meet itself.
      temperature: T, above 0.
      base_temperature: T_0.
      block_size: columns at a time.
      axis_name: mesh axis over which the images of a batch are spread.

    Returns:
      One loss per anchor, of either sign.

    Raises:
      ValueError: ``mixed`` of another shape; fewer than two views or one image, without labels; ``own_positive`` with
        another number of entries than views.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
      >>> loss = mixed_contrastive_loss(views, -views, temperature=1.0, base_temperature=1.0)
      >>> round(float(loss[0, 0]), 4)  # log(e + 1 + 1) + 1
      2.5514

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its code computes it, up to a constant in the printed value.
    """
    if mixed.shape != views.shape:
        raise ValueError(f"{mixed.shape=} is not {views.shape=}: give the mixed version of each view")
    if not isinstance(own_positive, bool) and own_positive.shape != views.shape[:1]:
        raise ValueError(f"{own_positive.shape=} is not {views.shape[:1]}: give one entry per view")
    if labels is None:
        _check_views(views, axis_name)
        groups = _images(views, axis_name)
    else:
        _check_labels(views, labels)
        groups = labels
    return _by_view(
        views,
        groups,
        mixed,
        own_positive=own_positive,
        temperature=temperature,
        base_temperature=base_temperature,
        block_size=block_size,
        axis_name=axis_name,
    )


def nt_xent_gradient(
    views: Float[Array, "views batch features"],
    *,
    temperature: Scalar = 0.05,
    base_temperature: float = BASE_TEMPERATURE,
    block_size: int | None = None,
) -> Float[Array, "views batch features"]:
    r"""Gradient of the MEAN NT-Xent loss with respect to the embeddings, in closed form.

    .. math:: \frac{\partial L}{\partial z_k} = \frac{1}{T_0 N} \Big( \sum_b (q_{kb} - Y_{kb}) z_b
              + \sum_a (q_{ak} - Y_{ak}) z_a \Big),

    where q is the softmax over the other rows and Y spreads 1 over an anchor's positives. It points to hard negatives
    and away from the positives.

    *Cost*: ``4 rows^2 features`` operations and a few ``rows x rows`` matrices; in blocks ``6 rows^2 features`` and
    matrices of ``rows x block_size``.

    Args:
      views: unit embeddings of at least two views of at least two images.
      temperature: T, above 0.
      base_temperature: T_0.
      block_size: columns at a time; None for all at once.

    Returns:
      The gradient, of the shape of ``views``; it is not projected onto the sphere.

    Raises:
      ValueError: as :func:`nt_xent_loss`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> views = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.8, 0.6]]])
      >>> automatic = jax.grad(lambda z: nt_xent_loss(z).mean())(views)
      >>> bool(jnp.allclose(nt_xent_gradient(views), automatic, atol=1e-5))
      True
    """
    temperature = _checked_temperature("temperature", temperature)
    _checked_temperature("base_temperature", base_temperature)
    _check_block_size(block_size)
    _check_views(views, None)
    count, batch, features = views.shape
    rows = count * batch
    z = at_least_float32(_rows(views))
    places = jnp.arange(rows)
    size = rows if block_size is None else block_size
    dtype = jnp.result_type(z, temperature)

    def similarities(candidates: Array, candidate_places: Array) -> Array:
        against = jnp.matmul(z, candidates.T, precision=HIGHEST) / temperature
        other = (places[:, None] != candidate_places[None, :]) & (candidate_places[None, :] >= 0)
        return jnp.where(other, against, -jnp.inf)

    padding = -rows % size
    blocks = (
        jnp.pad(z, [(0, padding), (0, 0)]).reshape(-1, size, features),
        jnp.pad(places, (0, padding), constant_values=-1).reshape(-1, size),
    )

    def add_sums(log_sum: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        return jnp.logaddexp(log_sum, jax.nn.logsumexp(similarities(*block), axis=1)), None

    log_sum, _ = jax.lax.scan(add_sums, jnp.full(rows, -jnp.inf, dtype), blocks)

    def add_pulls(gradient: Array, block: tuple[Array, Array, Array]) -> tuple[Array, None]:
        candidates, candidate_places, candidate_log_sum = block
        against = similarities(candidates, candidate_places)
        # Both directions: similarities are symmetric, the two sums that they are divided by are not the same.
        softmax = jnp.exp(against - log_sum[:, None]) + jnp.exp(against - candidate_log_sum[None, :])
        pairs = (places[:, None] // count == candidate_places[None, :] // count) & (against > -jnp.inf)
        excess = softmax - (2.0 / (count - 1)) * pairs.astype(dtype)
        return gradient + jnp.matmul(excess, candidates, precision=HIGHEST), None

    sums = jnp.pad(log_sum, (0, padding)).reshape(-1, size)
    gradient, _ = jax.lax.scan(add_pulls, jnp.zeros_like(z, dtype), (*blocks, sums))
    return (gradient / (base_temperature * rows)).reshape(batch, count, features).swapaxes(0, 1)


def _rows(views: Array) -> Array:
    """Views as rows, those of an image side by side: over devices, the rows are spread as the images are."""
    return views.swapaxes(0, 1).reshape(-1, views.shape[-1])


def _by_view(
    views: Array,
    groups_of_images: Array,
    mixed: Array | None = None,
    *,
    own_positive: bool | Array = False,
    temperature: Scalar,
    base_temperature: float,
    block_size: int | None,
    axis_name: str | None,
) -> Array:
    count, batch, _ = views.shape
    loss = contrastive_loss(
        _rows(views),
        jnp.repeat(groups_of_images, count),
        positives=None if mixed is None else _rows(mixed),
        own_positive=own_positive if isinstance(own_positive, bool) else jnp.tile(own_positive, batch),
        temperature=temperature,
        base_temperature=base_temperature,
        block_size=block_size,
        axis_name=axis_name,
    )
    return loss.reshape(batch, count).T


def _images(views: Array, axis_name: str | None) -> Array:
    numbers = jnp.arange(views.shape[1])
    return numbers if axis_name is None else numbers + views.shape[1] * jax.lax.axis_index(axis_name)


def _check_views(views: Array, axis_name: str | None) -> None:
    if views.ndim != 3 or views.shape[0] < 2:
        raise ValueError(f"{views.shape=} has no two views: give [views, batch, features] with at least 2 views")
    if views.shape[1] < 2 and axis_name is None:
        raise ValueError(f"{views.shape=} holds one image, which has no negatives: give a batch of 2 or more")


def _check_labels(views: Array, labels: Array) -> None:
    check_integers("labels", labels)
    if views.ndim != 3 or labels.shape != views.shape[1:2]:
        raise ValueError(
            f"{labels.shape=} does not fit {views.shape=}: give one label per image of [views, batch, features]"
        )


def _check_block_size(block_size: int | None) -> None:
    if block_size is not None and block_size < 1:
        raise ValueError(f"{block_size=} is below 1: give columns at a time, or None for all")


def _checked_temperature(name: str, value: Scalar) -> Scalar:
    """Refuses a number at or below 0; an array, whose value cannot be seen here, becomes nan and spoils the loss."""
    if isinstance(value, float | int):
        if not value > 0:
            raise ValueError(f"{name}={value!r} is not positive: give a temperature above 0, such as 0.05")
        return value
    return jnp.where(value > 0, value, jnp.nan)
