"""The cache that the environment names; and that nothing is paid where it names none."""

from __future__ import annotations

from pathlib import Path

import pytest
from cached_toys import toy_plan
from import_cost import also_imported

from kiln.cache.opening import shared_results
from kiln.core.errors import SigningKeyError, UsageError
from kiln.core.store import Store
from kiln.signing import keys


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own.pem"
    keys.load_or_create_key(path)
    monkeypatch.setenv("KILN_SIGNING_KEY", str(path))
    return path


def open_cache(tmp_path: Path) -> object:
    return shared_results(Store(tmp_path / "store"), lambda text: None)


def test_without_the_variable_there_is_none_and_nothing_is_imported(tmp_path: Path) -> None:
    assert open_cache(tmp_path) is None
    modules = "kiln.building.build, kiln.cli.main, kiln.measure.workbench"
    libraries = ["fsspec", "s3fs", "aiohttp", "botocore", "asyncio", "kiln.cache.shared"]
    assert also_imported(modules, libraries) == []


def test_the_own_key_signs_and_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_key: Path
) -> None:
    monkeypatch.setenv("KILN_CACHE", f"file://{tmp_path}/cache")
    shared = shared_results(Store(tmp_path / "store"), lambda text: None)
    assert shared is not None
    key = keys.load_key(own_key)
    assert shared.party.key == key
    assert shared.party.workers("any") == [key.key_id]


def trust_file(folder: Path) -> tuple[Path, str]:
    other = keys.load_or_create_key(folder / "other.pem")
    path = folder / "trust.toml"
    path.write_text(
        'schema = 1\n[[signer]]\nname = "farm"\nkey = "other.pub"\n'
        'may = ["stage-result"]\nmodels = ["ssd_*"]\n'
    )
    return path, other.key_id


def test_a_trust_file_names_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = trust_file(tmp_path)
    monkeypatch.setenv("KILN_CACHE", f"file://{tmp_path}/cache")
    monkeypatch.setenv("KILN_CACHE_TRUST", str(path))
    shared = shared_results(Store(tmp_path / "store"), lambda text: None)
    assert shared is not None
    assert shared.party.key is not None
    assert shared.party.workers("ssd_x") == [shared.party.key.key_id, other]
    assert shared.party.workers(toy_plan().model) == [shared.party.key.key_id]


def test_a_ci_without_a_key_takes_results_and_offers_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_SIGN", "keyless")
    monkeypatch.setenv("KILN_CACHE", f"file://{tmp_path}/cache")
    with pytest.raises(UsageError, match="no key whose results") as caught:
        open_cache(tmp_path)
    assert "KILN_CACHE_TRUST" in caught.value.remedy
    path, other = trust_file(tmp_path)
    monkeypatch.setenv("KILN_CACHE_TRUST", str(path))
    shared = shared_results(Store(tmp_path / "store"), lambda text: None)
    assert shared is not None
    assert shared.party.key is None
    assert shared.party.workers("ssd_x") == [other]


def test_what_is_wrong_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_CACHE", "ftp://host/x")
    with pytest.raises(UsageError, match="unknown scheme"):
        open_cache(tmp_path)
    monkeypatch.setenv("KILN_CACHE", f"file://{tmp_path}/cache")
    monkeypatch.setenv("KILN_CACHE_TRUST", str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"none\.toml"):
        open_cache(tmp_path)
    monkeypatch.delenv("KILN_CACHE_TRUST")
    monkeypatch.setenv("KILN_SIGNING_KEY", str(tmp_path / "none.pem"))
    with pytest.raises(SigningKeyError):
        open_cache(tmp_path)
