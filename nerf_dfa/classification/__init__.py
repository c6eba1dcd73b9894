"""Image classification on small networks: the problem on which learning rules and practices are compared."""

from nerf_dfa.classification.data import Dataset, load_dataset
from nerf_dfa.classification.model import ACTIVATIONS, NORMS, Classifier, free_rows
from nerf_dfa.classification.task import OPTIMISERS, SCHEDULES, ClassificationTask, Settings, make_trainer, train

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "OPTIMISERS",
    "SCHEDULES",
    "ClassificationTask",
    "Classifier",
    "Dataset",
    "Settings",
    "free_rows",
    "load_dataset",
    "make_trainer",
    "train",
]
