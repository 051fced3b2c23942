"""The images inside the package: a lossless tenth of Fashion-MNIST, the default data set."""

import hashlib
from pathlib import Path

import numpy as np

from osrjax.data.source import DecodedSplits, Examples, Source

__all__ = ["PATH", "SHA256", "bundled_source", "examples_sha256"]

PATH = Path(__file__).with_name("fashion_mnist_small.npz")

# Of the decoded pixels and labels (`examples_sha256`), so that another compression changes nothing.
SHA256 = {
    "train": "e3f31c8384bb55ef90cb1be5b26cc921ec121a798773af7f5702c426eeb79b8e",
    "test": "6bfa90e4b129d189737c2d8945c820024f66b73ecd350999559195b3e57ce4a9",
}


def examples_sha256(examples: Examples) -> str:
    """The sha256 of uint8 pixels followed by little-endian int32 labels.

    Args:
      examples: the examples.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256(np.ascontiguousarray(examples.images).reshape(-1).data)
    digest.update(examples.labels.astype("<i4").tobytes())
    return digest.hexdigest()


def bundled_source() -> Source:
    """Fashion-MNIST, the first 600 train and 100 test images of each class, 28x28x1.

    The images are unchanged; Zalando's MIT licence lies beside the file as FASHION_MNIST_LICENSE.

    Returns:
      The source, with splits "train" (6 000 images) and "test" (1 000), ordered by class.

    Raises:
      ValueError: at the look-up of a split whose decoded pixels are not the pinned ones.
    """
    with np.load(PATH, allow_pickle=False) as archive:
        class_names = tuple(str(name) for name in archive["classes"])

    def read(split: str) -> Examples:
        with np.load(PATH, allow_pickle=False) as archive:
            images, labels = archive[f"{split}_images"], archive[f"{split}_labels"]
        examples = Examples(images, labels)
        digest = examples_sha256(examples)
        if digest != SHA256[split]:
            raise ValueError(
                f"{PATH.name} {split}: sha256 {digest[:12]} is not {SHA256[split][:12]}: the file is"
                " damaged, install the package again"
            )
        return examples

    return Source(
        name="fashion_mnist_small",
        provenance=(
            "Fashion-MNIST (Zalando, MIT), bundled subset: first 600 train and 100 test images a class,"
            f" sha256 {SHA256['train'][:12]}/{SHA256['test'][:12]}"
        ),
        complete=False,
        class_names=class_names,
        splits=DecodedSplits({split: lambda split=split: read(split) for split in SHA256}),
    )
