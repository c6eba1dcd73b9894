"""Small data sets on the disk."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="pip install scikit-learn")

from nerf_dfa.recommender.cache import make_cache
from nerf_dfa.recommender.criteo import Criteo
from nerf_dfa.recommender.data import Data
from nerf_dfa.recommender.synthetic import Law, write_criteo

LAW = Law(pair=2.0, triple=2.0, values=200, deciding_values=4)


@pytest.fixture(scope="session")
def clicks(tmp_path_factory):
    """3,000 rows in Criteo's format, in which pairs and triples decide."""
    return write_criteo(tmp_path_factory.mktemp("clicks") / "train.txt", 3000, law=LAW)


@pytest.fixture(scope="session")
def small(clicks, tmp_path_factory):
    return Data(make_cache(Criteo(clicks), tmp_path_factory.mktemp("cache") / "cache", 5, quiet=True))


@pytest.fixture
def rng():
    return np.random.default_rng(0)
