"""When ranks may keep to loopback."""

import pytest

from oprime.adapters.rank_group import all_ranks_are_here


@pytest.mark.parametrize(
    ("environment", "here"),
    [
        ({}, True),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, True),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, True),
        # Host 0 of two, whose own name was not known when rank 0 began to listen.
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}, False),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "10.0.0.7"}, False),
    ],
)
def test_ranks_keep_to_loopback_only_where_all_are_on_one_machine(environment: dict[str, str], here: bool) -> None:
    assert all_ranks_are_here(environment) is here
