"""How a network learns. Knows nothing of scenes, images or data sets."""

from nerf_dfa.learning.broadcast import broadcast
from nerf_dfa.learning.feedback import Feedback
from nerf_dfa.learning.projection import Projection
from nerf_dfa.learning.rules import RULES, Rule, make_rule
from nerf_dfa.learning.tapes import Tape

__all__ = ["RULES", "Feedback", "Projection", "Rule", "Tape", "broadcast", "make_rule"]
