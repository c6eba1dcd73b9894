"""The trainer that all tasks share."""

from nerf_dfa.training.task import Task
from nerf_dfa.training.trainer import Progress, Trainer

__all__ = ["Progress", "Task", "Trainer"]
