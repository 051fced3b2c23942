"""Outputs of a PyTorch network, for experiments/evaluate.py: scikit-learn's digits, 8 and 9 unknown. Needs torch.

python experiments/examples/make_outputs_torch.py && python experiments/evaluate.py outputs.npz
"""

import numpy as np
import torch
from sklearn.datasets import load_digits

torch.manual_seed(0)
images, classes = (torch.tensor(array) for array in load_digits(return_X_y=True))
images, known = images.float() / 16, torch.where(classes < 8)[0]
parts = known[torch.randperm(len(known))].split([400, 150, len(known) - 550])
rows = dict(zip(("train", "validation", "known"), parts, strict=True)) | {"unknown": torch.where(classes > 7)[0]}
backbone, head = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU()), torch.nn.Linear(16, 8)
optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.01)
for _ in range(150):
    loss = torch.nn.functional.cross_entropy(head(backbone(images[rows["train"]])), classes[rows["train"]])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
arrays = {"head_kernel": head.weight.T, "head_bias": head.bias}  # PyTorch's weight is [classes, features]
for part, chosen in rows.items():
    embedding = backbone(images[chosen])
    logits = head(embedding).half()
    arrays |= {f"{part}_embedding": embedding, f"{part}_logits": logits, f"{part}_labels": classes[chosen]}
    # Scores as PyTorch takes them, to compare with; evaluate.py does not read them.
    arrays[f"{part}_torch_energy"] = -logits.float().logsumexp(dim=1)
    arrays[f"{part}_torch_max_softmax"] = logits.float().softmax(dim=1).amax(dim=1)
np.savez_compressed("outputs.npz", **{name: array.detach().numpy() for name, array in arrays.items()})
