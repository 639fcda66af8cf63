"""scikit-learn's bundled handwritten digits: 1797 real 8x8 images with values 0..16 (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

import torch

from train.data.catalogue import ENTRIES
from train.data.splits import Dataset, MemorySplit

SPEC = ENTRIES["digits"].spec
SPLIT_SEED = 0  # the test set is the same in every run and for every training seed


def load_digits(test_fraction: float = 0.2) -> Dataset:
    """The digits, split with equal shares of every class; no download."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    images, labels = datasets.load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images.reshape(-1, *SPEC.shape), labels, test_size=test_fraction, stratify=labels, random_state=SPLIT_SEED
    )

    def split(x: object, y: object) -> MemorySplit:
        return MemorySplit(torch.as_tensor(x).to(torch.uint8), torch.as_tensor(y).long())

    return Dataset(SPEC, split(x_train, y_train), split(x_test, y_test))
