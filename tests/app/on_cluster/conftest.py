"""A cluster in the place of the one server that the other tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from prove.cluster import Cluster, valkey_cluster


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    with valkey_cluster(folder) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def valkey_url(cluster: Cluster) -> str:
    return cluster.url
