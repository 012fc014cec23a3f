"""Contents in the real muscles: for whom they are."""

from __future__ import annotations

import pytest

from tests.native.conftest import Scenario

pytestmark = pytest.mark.timeout(60)


def test_a_module_goes_to_its_hosts_alone_and_for_its_publisher(scenario: Scenario) -> None:
    scenario("contents.goes_to_hosts_alone")


def test_an_upload_outlives_the_unload_of_an_older_seed(scenario: Scenario) -> None:
    scenario("contents.outlives_an_unload")
