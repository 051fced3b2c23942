"""Outputs of a network that is not ours, for experiments/evaluate.py: scikit-learn's on its digits, 8 and 9 unknown.

python experiments/examples/make_outputs.py && python experiments/evaluate.py outputs.npz
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

images, classes = load_digits(return_X_y=True)
known = np.random.default_rng(0).permutation(np.flatnonzero(classes < 8))
rows = dict(zip(("train", "validation", "known"), np.split(known, [800, 1000]), strict=True))
rows["unknown"] = np.flatnonzero(classes >= 8)
network = MLPClassifier((64,), max_iter=40, tol=0, n_iter_no_change=40, random_state=0)
network.fit(images[rows["train"]] / 16, classes[rows["train"]])
(first, kernel), (shift, bias) = network.coefs_, network.intercepts_
arrays = {"head_kernel": kernel, "head_bias": bias}
for part, chosen in rows.items():
    arrays[f"{part}_embedding"] = np.maximum(images[chosen] / 16 @ first + shift, 0)
    arrays[f"{part}_logits"] = arrays[f"{part}_embedding"] @ kernel + bias
    if part != "unknown":
        arrays[f"{part}_labels"] = classes[chosen]
np.savez("outputs.npz", **arrays)
