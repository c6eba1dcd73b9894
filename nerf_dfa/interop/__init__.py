"""Other projects' files: their checkpoints and configs, read into this program's runs.

nerf_pytorch        yenchenlin/nerf-pytorch: same names of parameters and flags; `train.py` and `render.py` read it
flexible            krrish94/nerf-pytorch and the release of the paper on direct feedback alignment, built on it
import_checkpoint   the program that makes a run folder of a checkpoint
measure             the program that scores a run on random pixels
"""
