"""Which ranks a host starts, and what is refused before any is started."""

import pytest

from oprime.runtime.errors import SettingsError
from oprime.runtime.rank_launcher import Hosts, interface_towards, is_rank, require_world_size

TWO = {"OPRIME_HOSTS": "2", "OPRIME_HOST_INDEX": "1", "OPRIME_HOST_ADDRESS": "learner-0-0.learner:29500"}


def test_without_variables_there_is_one_host() -> None:
    assert Hosts.of_environment({}) == Hosts()
    assert list(Hosts().share(3, "learner.ranks")) == [0, 1, 2]


def test_one_host_needs_no_address() -> None:
    assert Hosts.of_environment({"OPRIME_HOSTS": "1", "OPRIME_HOST_INDEX": "0"}) == Hosts()


def test_each_host_starts_its_share_in_order() -> None:
    second = Hosts.of_environment(TWO)
    assert (second.index, second.host, second.port) == (1, "learner-0-0.learner", 29500)
    assert list(second.share(8, "learner.ranks")) == [4, 5, 6, 7]
    first = Hosts.of_environment(TWO | {"OPRIME_HOST_INDEX": "0"})
    assert list(first.share(8, "learner.ranks")) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"OPRIME_HOSTS": "two"}, r"OPRIME_HOSTS = 'two': it must be a whole number of at least 1"),
        ({"OPRIME_HOSTS": "0"}, r"OPRIME_HOSTS = '0': it must be a whole number of at least 1"),
        ({"OPRIME_HOST_INDEX": ""}, r"OPRIME_HOST_INDEX = '': it must be a whole number of at least 0"),
        ({"OPRIME_HOST_INDEX": "-1"}, r"OPRIME_HOST_INDEX = '-1'"),
        ({"OPRIME_HOST_INDEX": "2"}, r"OPRIME_HOST_INDEX = 2 with OPRIME_HOSTS = 2: hosts count from 0 to 1"),
        ({"OPRIME_HOST_ADDRESS": ""}, r"OPRIME_HOST_ADDRESS = '': write HOST:PORT"),
        ({"OPRIME_HOST_ADDRESS": "learner"}, r"OPRIME_HOST_ADDRESS = 'learner': write HOST:PORT"),
        ({"OPRIME_HOST_ADDRESS": "learner:0"}, r"all hosts must know the port; write one that is free on host 0, such as 29500"),
    ],
)
def test_variables_that_name_no_host_are_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Hosts.of_environment(TWO | changes)


@pytest.mark.parametrize(("ranks", "next_multiple"), [(1, 2), (3, 4), (5, 6)])
def test_ranks_that_hosts_cannot_share_evenly_are_refused_with_a_number_that_they_can(ranks: int, next_multiple: int) -> None:
    with pytest.raises(SettingsError, match=rf"prm.ranks = {ranks} with OPRIME_HOSTS = 2: .* multiple of 2, such as {next_multiple}$"):
        Hosts.of_environment(TWO).share(ranks, "prm.ranks")


def test_a_world_size_that_is_not_the_setting_is_refused() -> None:
    require_world_size({"RANK": "0", "WORLD_SIZE": "4"}, 4, "learner.ranks")
    require_world_size({"RANK": "0"}, 1, "learner.ranks")
    with pytest.raises(SettingsError, match=r"WORLD_SIZE = 4 with learner.ranks = 2: start as many ranks .* or set learner.ranks=4"):
        require_world_size({"RANK": "0", "WORLD_SIZE": "4"}, 2, "learner.ranks")


def test_a_launcher_marks_its_ranks() -> None:
    assert is_rank({"RANK": "0"})
    assert not is_rank(TWO)


def test_the_interface_is_the_one_that_has_the_address() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no-such-host.invalid") == ""
