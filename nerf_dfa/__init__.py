"""nerf_dfa: neural radiance fields in which how the network learns is a switch."""

__version__ = "0.1.0"
