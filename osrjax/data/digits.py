"""The 8x8 digits that scikit-learn carries: 1 797 gray images, for runs that take seconds."""

import numpy as np

from osrjax.data.source import DecodedSplits, Examples, Source

__all__ = ["digits_source"]


def digits_source() -> Source:
    """The 1 797 digits of scikit-learn as 8x8x1 images.

    The grey levels 0 to 16 are scaled to 0 to 255 and rounded. The set has no split of its own: of each
    class the last fifth in file order, which holds other writers than the first, is the test part.

    Returns:
      The source, with splits "train" (1 438 images) and "test" (359).
    """
    from sklearn.datasets import load_digits  # 1 s of import, only paid by who asks for digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        test[rows[len(rows) - round(len(rows) / 5) :]] = True

    def examples(chosen: np.ndarray) -> Examples:
        return Examples(images[chosen], labels[chosen])

    return Source(
        name="digits",
        provenance="scikit-learn load_digits, 8x8 handwritten digits, last fifth of each class as test",
        complete=True,
        class_names=tuple(str(label) for label in range(10)),
        splits=DecodedSplits({"train": lambda: examples(~test), "test": lambda: examples(test)}),
    )
