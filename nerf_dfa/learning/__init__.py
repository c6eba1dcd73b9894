"""How a network learns. Knows nothing of scenes, images or data sets."""

from nerf_dfa.learning.broadcast import broadcast
from nerf_dfa.learning.feedback import DenseFeedback, Feedback
from nerf_dfa.learning.rules import RULES, Rule, Tape, make_rule

__all__ = ["RULES", "DenseFeedback", "Feedback", "Rule", "Tape", "broadcast", "make_rule"]
