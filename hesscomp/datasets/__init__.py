"""Named data sets and file readers, sharded over the ranks."""

from hesscomp.datasets.dataset import Dataset, Shard, from_arrays
from hesscomp.datasets.features import fourier_features
from hesscomp.datasets.load import load_dataset

__all__ = ["Dataset", "Shard", "fourier_features", "from_arrays", "load_dataset"]
