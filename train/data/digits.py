"""scikit-learn's bundled handwritten digits: 1797 real 8x8 images with values 0..16 (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

import torch
from torch import Tensor

from train.data.spec import DataSpec

SPEC = DataSpec(name="digits", shape=(1, 8, 8), classes=10, levels=16, mean=(0.0,), std=(16.0,))
SPLIT_SEED = 0  # the test set is the same in every run and for every training seed


def load_digits_split(test_fraction: float = 0.2) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """((frames, labels) for training, the same for test): frames uint8 [N, 1, 8, 8], stratified split, no download."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images.reshape(-1, *SPEC.shape), labels, test_size=test_fraction, stratify=labels, random_state=SPLIT_SEED
    )

    def tensors(x: object, y: object) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(x).to(torch.uint8), torch.as_tensor(y).long()

    return tensors(x_train, y_train), tensors(x_test, y_test)
