"""Open-set scores: one number per example, larger = more unknown.

Every score takes any leading ``*batch`` axes and never reduces them. Scores are logits or logarithms, in float32 or
better: a float32 probability is exactly 1 from a logit margin of about 17 on, and ties cannot be ranked. *Cosines* are
unscaled inner products of a unit embedding with unit prototypes; *logits* are unbounded. An example with a NaN among
them scores NaN, which is no decision.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from osrjax.arrays import at_least_float32
from osrjax.losses.classification import margin_cosines
from osrjax.losses.distances import anchor_distances

__all__ = [
    "cosine_score",
    "energy_score",
    "entropy_score",
    "generalised_entropy_score",
    "log_cac_score",
    "log_entropy_score",
    "log_m_ovr_score",
    "log_max_softmax_score",
    "m_ovr_score",
    "max_logit_score",
    "max_softmax_score",
]

Scalar = float | Float[Array, ""]


def m_ovr_score(
    cosines: Float[Array, "*batch classes"], *, margin: Scalar = 0.0, scale: Scalar = 32.0
) -> Float[Array, "*batch"]:
    r"""The m-OvR loss of an example at its most favourable label.

    .. math:: \min_y L(x, y) = \mathrm{softplus}(-T s_{\hat y})
              + \sum_{k \ne \hat y} \mathrm{softplus}(T s_k),
              \qquad s_k = \cos(\theta_k + m), \quad \hat y = \mathrm{arg\,max}_k\, s_k.

    Every term is positive and small for a confident example, so losses of 1e-12 keep their order in float32. Below
    1e-38, hence with T above about 80, they become 0: :func:`log_m_ovr_score` has no such limit. The paper leaves open
    whether the margin stays in at inference: m = 0 leaves it out.

    Args:
      cosines: unscaled cosines, in [-1, 1] up to rounding.
      margin: m in radians, in [0, pi).
      scale: T, above 0; the value of training.

    Returns:
      One score per example, at least 0, larger = more unknown.

    Raises:
      ValueError: a Python number for the margin outside [0, pi) or for the scale at or below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> cosines = jnp.array([[1.0, -1.0], [0.0, 0.0]])
      >>> [round(float(s), 4) for s in m_ovr_score(cosines, scale=1.0)]  # 2 log(1 + 1/e), 2 log 2
      [0.6265, 1.3863]

    References:
      Park et al., "Understanding Open-Set Recognition by Jacobian Norm and Inter-Class Separation", arXiv 2209.11436,
      eq. 2 and 3, section 5.3.
    """
    return jnp.sum(jax.nn.softplus(_ovr_exponents(cosines, margin, scale)), axis=-1)


def log_m_ovr_score(
    cosines: Float[Array, "*batch classes"], *, margin: Scalar = 0.0, scale: Scalar = 32.0
) -> Float[Array, "*batch"]:
    r"""Logarithm of :func:`m_ovr_score`, exact at every scale.

    .. math:: \log \sum_k \mathrm{softplus}(z_k), \qquad z_{\hat y} = -T s_{\hat y},
              \quad z_k = T s_k \; (k \ne \hat y).

    The ranking is the same; nothing underflows, and a histogram is readable. Arguments and errors are those of
    :func:`m_ovr_score`.

    Returns:
      One score per example, of either sign, larger = more unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> score = log_m_ovr_score(jnp.array([[1.0, -1.0]]), scale=200.0)
      >>> round(float(score[0]), 4)  # log(2 e^-200)
      -199.3069

    References:
      Park et al., arXiv 2209.11436, eq. 2 and 3, section 5.3.
    """
    return jax.nn.logsumexp(_log_softplus(_ovr_exponents(cosines, margin, scale)), axis=-1)


def max_softmax_score(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    r"""Negative logarithm of the largest softmax probability.

    .. math:: -\log \max_k p_k = \log\Bigl(1 + \sum_{k \ne \hat y} e^{z_k - z_{\hat y}}\Bigr).

    The largest term is left out of the sum, since ``1 + 1e-12`` is 1 in float32: the score stays distinct up to logit
    margins of about 87, whereas the probability (and the usual log-softmax) is tied from 17 on.
    :func:`log_max_softmax_score` has no such limit.

    Args:
      logits: one unbounded logit per class.

    Returns:
      One score per example, in [0, log(classes)], larger = more unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> score = max_softmax_score(jnp.array([[0.0, 0.0], [40.0, 0.0]]))
      >>> [f"{float(s):.4g}" for s in score]  # log 2, e^-40
      ['0.6931', '4.248e-18']

    References:
      Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
      Networks", ICLR 2017, arXiv 1610.02136, section 3.
    """
    return -jnp.max(_log_softmax(at_least_float32(logits)), axis=-1)


def log_max_softmax_score(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    r"""Logarithm of :func:`max_softmax_score`, distinct at every logit margin.

    .. math:: \log \mathrm{softplus}(r), \qquad r = \log \sum_{k \ne \hat y} e^{z_k - z_{\hat y}}.

    The ranking is the same; nothing underflows.

    Args:
      logits: one unbounded logit per class.

    Returns:
      One score per example, at most log(log(classes)), larger = more unknown; -inf for a single class.

    Example:
      >>> import jax.numpy as jnp
      >>> score = log_max_softmax_score(jnp.array([[200.0, 0.0], [201.0, 0.0]]))
      >>> [float(s) for s in score]
      [-200.0, -201.0]

    References:
      Hendrycks and Gimpel, arXiv 1610.02136, section 3.
    """
    return _log_softplus(_rest(_below_largest(logits)))


def max_logit_score(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    r"""Negative of the largest logit.

    .. math:: -\max_k z_k.

    Args:
      logits: one unbounded logit per class.

    Returns:
      One score per example, of either sign, larger = more unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> float(max_logit_score(jnp.array([1.0, 3.0, 2.0])))
      -3.0

    References:
      Vaze et al., "Open-Set Recognition: a Good Closed-Set Classifier is All You Need?", ICLR 2022,
      arXiv 2110.06207, section 5.
    """
    return -jnp.max(at_least_float32(logits), axis=-1)


def energy_score(logits: Float[Array, "*batch classes"], *, temperature: Scalar = 1.0) -> Float[Array, "*batch"]:
    r"""Free energy of the logits.

    .. math:: E = -T \log \sum_k e^{z_k / T}.

    Args:
      logits: one unbounded logit per class.
      temperature: T, above 0; towards 0 the score becomes :func:`max_logit_score`.

    Returns:
      One score per example, of either sign, larger = more unknown.

    Raises:
      ValueError: a Python number at or below 0 for the temperature.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(energy_score(jnp.array([0.0, 0.0]))), 4)  # -log 2
      -0.6931

    References:
      Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020, arXiv 2010.03759, eq. 4.
    """
    if isinstance(temperature, float | int) and not temperature > 0:
        raise ValueError(f"{temperature=} is not positive: give a temperature above 0, such as 1")
    logits = at_least_float32(logits)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    # Subtracting before dividing keeps the largest exponent exactly 0: a compiler may round a quotient in
    # two ways, and for huge logits the difference of the two is huge too.
    excess = jax.nn.logsumexp((logits - largest) / temperature, axis=-1)
    return -jnp.squeeze(largest, axis=-1) - temperature * excess


def entropy_score(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    r"""Entropy of the softmax distribution.

    .. math:: H = -\sum_k p_k \log p_k, \qquad 0 \log 0 = 0.

    Args:
      logits: one unbounded logit per class; -inf excludes a class.

    Returns:
      One score per example in nats, in [0, log(classes)], larger = more unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(entropy_score(jnp.zeros(4))), 4)  # log 4
      1.3863

    References:
      Macêdo et al., "Entropic Out-of-Distribution Detection", arXiv 1908.05569.
    """
    log_p = _log_softmax(at_least_float32(logits))
    p = jnp.exp(log_p)
    present = p != 0  # NaN too: left out, it would be the score of a certain example
    return -jnp.sum(jnp.where(present, p * jnp.where(present, log_p, 0.0), 0.0), axis=-1)


def generalised_entropy_score(
    logits: Float[Array, "*batch classes"], *, gamma: float = 0.1, largest: int = 100
) -> Float[Array, "*batch"]:
    r"""Generalised entropy (GEN) of the largest softmax probabilities.

    .. math:: G = \sum_{j \le M} p_{(j)}^\gamma (1 - p_{(j)})^\gamma, \qquad p_{(1)} \ge p_{(2)} \ge \dots

    A small power makes the probabilities that are nearly 0 count, which the entropy leaves out. Both factors are powers
    of logarithms: 1 - p is not rounded to 0 where p is 1 in float32.

    Args:
      logits: one unbounded logit per class.
      gamma: in (0, 1).
      largest: M, how many of the largest probabilities count, at least 1; all of fewer classes.

    Returns:
      One score per example, at least 0, larger = more unknown.

    Raises:
      ValueError: gamma or M out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(generalised_entropy_score(jnp.zeros(2), gamma=0.5))  # 2 * (1/2 * 1/2) ** 0.5
      1.0

    References:
      Liu, Lochman and Zach, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection", CVPR 2023, eq. 4
      and 6.
    """
    if not 0 < gamma < 1:
        raise ValueError(f"{gamma=} is not in (0, 1): give a power such as 0.1")
    if largest < 1:
        raise ValueError(f"{largest=} is below 1: give the number of largest probabilities that count, such as 100")
    logits = at_least_float32(logits)
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    log_others = jax.nn.logsumexp(jnp.where(_is_largest(logits), -jnp.inf, shifted), axis=-1, keepdims=True)
    log_total = jnp.log1p(jnp.exp(log_others))
    log_p = shifted - log_total
    smaller = jnp.where(_is_largest(logits), -1.0, log_p)  # each at most log 1/2
    log_rest = jnp.where(_is_largest(logits), log_others - log_total, jnp.log1p(-jnp.exp(smaller)))
    counted = jax.lax.top_k(log_p, min(largest, log_p.shape[-1]))[1]
    powers = jnp.exp(gamma * (log_p + log_rest))
    return jnp.sum(jnp.take_along_axis(powers, counted, axis=-1), axis=-1)


def log_cac_score(logits: Float[Array, "*batch classes"], *, anchor: Scalar = 10.0) -> Float[Array, "*batch"]:
    r"""Logarithm of the rejection score of class anchor clustering.

    .. math:: \log \min_k d_k (1 - p_k), \qquad p = \mathrm{softmax}(-d), \quad d_k = \lVert z - \alpha e_k \rVert.

    Args:
      logits: z, one unbounded logit per class.
      anchor: alpha of training.

    Returns:
      One score per example, of either sign, larger = more unknown; -inf at an anchor. It ranks as the paper's score
      does, and is not tied where a p is 1 in float32.

    Example:
      >>> import jax.numpy as jnp
      >>> score = log_cac_score(jnp.array([0.0, 0.0]), anchor=4.0)
      >>> round(float(score), 4)  # log(4 * 1/2)
      0.6931

    References:
      Miller et al., arXiv 2004.02434, eq. 7.
    """
    distances = anchor_distances(at_least_float32(logits), anchor=anchor)
    log_total = jax.nn.logsumexp(-distances, axis=-1, keepdims=True)
    own = jnp.eye(distances.shape[-1], dtype=bool).reshape((1,) * (distances.ndim - 1) + (distances.shape[-1], -1))
    others = jnp.where(own, -jnp.inf, -distances[..., None, :])
    log_rest = jax.nn.logsumexp(others, axis=-1) - log_total
    return jnp.min(jnp.log(distances) + log_rest, axis=-1)


def log_entropy_score(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    r"""Logarithm of :func:`entropy_score`, distinct at every logit margin.

    .. math:: \log \Bigl( \mathrm{softplus}(r) + e^{-\mathrm{softplus}(r)} \sum_{k \ne \hat y} -d_k e^{d_k} \Bigr),
              \qquad d_k = z_k - z_{\hat y}, \quad r = \log \sum_{k \ne \hat y} e^{d_k}.

    The ranking is the same; nothing underflows.

    Args:
      logits: one unbounded logit per class; -inf excludes a class.

    Returns:
      One score per example, at most log(log(classes)), larger = more unknown; -inf for a single class.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(log_entropy_score(jnp.array([200.0, 0.0]))), 4)  # log(201 e^-200)
      -194.6967

    References:
      Macêdo et al., arXiv 1908.05569.
    """
    below = _below_largest(logits)
    rest = _rest(below)
    # Everything in units of the second largest term, which is what underflows.
    second = jax.lax.stop_gradient(jnp.max(below, axis=-1))
    second = jnp.where(jnp.isfinite(second), second, 0.0)
    excluded = below == -jnp.inf
    terms = jnp.where(excluded, 0.0, -below * jnp.exp(jnp.where(excluded, 0.0, below - second[..., None])))
    of_largest = jnp.exp(_log_softplus(rest) - second)
    return second + jnp.log(of_largest + jnp.exp(-jax.nn.softplus(rest)) * jnp.sum(terms, axis=-1))


def cosine_score(cosines: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    r"""Negative cosine to the nearest prototype.

    .. math:: -\max_k \cos \theta_k.

    Args:
      cosines: unscaled cosines, in [-1, 1] up to rounding.

    Returns:
      One score per example, in [-1, 1] up to rounding, larger = more unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> float(cosine_score(jnp.array([0.5, -0.25])))
      -0.5

    References:
      Techapanurak, Suganuma and Okatani, "Hyperparameter-Free Out-of-Distribution Detection Using Softmax of
      Scaled Cosine Similarity", arXiv 1905.10628.
    """
    return -jnp.max(at_least_float32(cosines), axis=-1)


def _ovr_exponents(
    cosines: Float[Array, "*batch classes"], margin: Scalar, scale: Scalar
) -> Float[Array, "*batch classes"]:
    """Arguments of the softplus terms: -T s for the predicted class, T s for every other."""
    if isinstance(margin, float | int) and not 0 <= margin < jnp.pi:
        raise ValueError(f"{margin=} is no angle in [0, pi): give a margin in radians, such as 0")
    if isinstance(scale, float | int) and not scale > 0:
        raise ValueError(f"{scale=} is not positive: give the scale T of training, such as 32")
    shifted = margin_cosines(at_least_float32(cosines), margin)
    return scale * jnp.where(_is_largest(shifted), -shifted, shifted)


def _log_softmax(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Log-softmax whose largest entry keeps its relative precision, as the usual one does not."""
    is_largest = _is_largest(logits)
    below_largest = logits - jnp.max(logits, axis=-1, keepdims=True)
    rest = jnp.sum(jnp.where(is_largest, 0.0, jnp.exp(below_largest)), axis=-1, keepdims=True)
    return below_largest - jnp.log1p(rest)


def _is_largest(values: Float[Array, "*batch classes"]) -> Bool[Array, "*batch classes"]:
    """Marks exactly one entry per row, the first of equals."""
    positions = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    return positions == jnp.argmax(values, axis=-1, keepdims=True)


def _below_largest(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Each logit less the largest one, whose own entry is left out as -inf; NaN where the largest is not finite."""
    logits = at_least_float32(logits)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    below = jnp.where(_is_largest(logits), -jnp.inf, logits - largest)
    return jnp.where(jnp.isfinite(largest), below, jnp.nan)


def _rest(below: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    """Log-odds against the largest class; -inf where there is no other."""
    present = below != -jnp.inf
    return jax.nn.logsumexp(jnp.where(present, below, 0.0), axis=-1, where=present)


def _log_softplus(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # softplus(z) = e^z - e^2z / 2 + ..., so log softplus(z) = z - e^z / 2 to float32 rounding below -10.
    # Both branches must be finite everywhere: 0 * inf is nan in the backward pass.
    small = z < -10.0
    return jnp.where(
        small,
        z - 0.5 * jnp.exp(jnp.where(small, z, -10.0)),
        jnp.log(jax.nn.softplus(jnp.where(small, 0.0, z))),
    )
