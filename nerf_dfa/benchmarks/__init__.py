"""Benchmarks: `python -m nerf_dfa.benchmarks.NAME` prints one JSON object; ratios are of times taken in one run."""
