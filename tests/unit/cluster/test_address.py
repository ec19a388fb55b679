"""Which addresses of clusters are taken."""

from __future__ import annotations

import pytest
from import_cost import also_imported

from kiln.cluster.address import VARIABLE, ClusterAddress, cluster_address
from kiln.core.errors import UsageError


@pytest.fixture(autouse=True)
def without_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_none_is_this_machine() -> None:
    assert cluster_address(None) is None


def test_the_variable_is_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "local:2")
    assert cluster_address(None) == ClusterAddress(local=2)
    assert cluster_address("local:3") == ClusterAddress(local=3)


@pytest.mark.parametrize(
    "text",
    ["tcp://127.0.0.1:8786", "tcp://127.9.9.9:1", "tcp://[::1]:8786", "tcp://localhost:8786"],
)
def test_loopback_may_be_in_the_clear(text: str) -> None:
    assert str(cluster_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "tcp://10.0.0.1:8786",
        "tcp://scheduler:8786",
        "tcp://localhost.example:8786",
        "tcp://0.0.0.0:8786",
        "tcp://127.0.0.1.example:1",
    ],
)
def test_other_machines_need_encryption_or_a_person_s_word(text: str) -> None:
    with pytest.raises(UsageError, match="not encrypted") as refused:
        cluster_address(text)
    assert "--insecure" in refused.value.remedy
    assert str(cluster_address(text, insecure=True)) == text
    encrypted = text.replace("tcp:", "tls:")
    assert str(cluster_address(encrypted)) == encrypted


def test_the_variable_is_named_when_it_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "tcp://10.0.0.1:8786")
    with pytest.raises(UsageError, match=VARIABLE):
        cluster_address(None)


@pytest.mark.parametrize(
    "text",
    [
        "", "local", "local:", "local:0", "local:65", "local:-1", "local:2.5", "tcp://",
        "10.0.0.1:1", "tls://host", "tls://host:0", "tls://host:99999", "tls://host:x", "tls://u:p@host:1",
        "tls://host:1/path", "tls://host:1?a=b", "ucx://127.0.0.1:1", "inproc://127.0.0.1:1",
        "http://127.0.0.1:8786", "tls://[::1:8786", "local:2\n",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        cluster_address(text, insecure=True)


def test_a_worker_needs_a_scheduler() -> None:
    with pytest.raises(UsageError, match="--scheduler"):
        cluster_address("local:2", option="--scheduler", local=False)


def test_without_dask_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed") as refused:
        cluster_address("local:2")
    assert "tflite-kiln[cluster]" in refused.value.remedy


def test_a_build_imports_no_dask() -> None:
    modules = "kiln.cli.main, kiln.cli.build, kiln.building.build, kiln.cluster.address"
    assert also_imported(modules, ["dask", "distributed", "tornado"]) == []
    assert also_imported("kiln.cluster.driver", ["distributed"]) == ["distributed"]
