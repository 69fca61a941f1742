"""A site: several processes that train as one peer."""

import numpy as np
import pytest
from fixtures import ranks

CASES = [
    "plain muon",
    "plain chat",
    "sharded muon",
    "sharded normuon",
    "sharded adamw",
    "sharded chat",
]


@pytest.mark.parametrize("size", [2, 4])
def test_a_site_gives_what_one_process_with_the_same_batch_gives(size, tmp_path):
    found = ranks.site(CASES, size, tmp_path)
    for name in CASES:
        expected = ranks.alone(name)
        assert found[name].keys() == expected.keys()
        for what, value in expected.items():
            scale = np.abs(value).max() + 1e-9
            np.testing.assert_allclose(
                found[name][what] / scale, value / scale, atol=2e-4, err_msg=f"{name}: {what}"
            )
