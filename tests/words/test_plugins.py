"""Names to code: the built-in table, entry points of others, and one line for whatever is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from undrift.errors import DeclarationError, MissingExtraError, SettingsError
from undrift.plugins import BUILT_IN, names, resolve, resolve_path
from undrift.state.sql import SqliteStore


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_built_in_name_is_its_class() -> None:
    assert resolve("journal", "sqlite") is SqliteStore
    assert "sqlite" in names("journal")
    assert names("no such port") == []


def test_every_built_in_name_points_to_a_file_of_ours() -> None:
    import undrift

    root = Path(undrift.__file__).parent.parent
    for port, plugins in BUILT_IN.items():
        for name, plugin in plugins.items():
            module = plugin.target.partition(":")[0]
            assert (root / (module.replace(".", "/") + ".py")).is_file(), f"{port} {name}"


def test_another_package_adds_a_name_by_an_entry_point(site: Path) -> None:
    (site / "undrift_etcd.py").write_text("class EtcdJournal: ...\n")
    info = site / "undrift_etcd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: undrift-etcd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[undrift.plugins]\njournal:etcd = undrift_etcd:EtcdJournal\n")
    assert names("journal") == ["etcd", "sqlite"]
    assert resolve("journal", "etcd").__name__ == "EtcdJournal"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no journal answers to oracle://(.|\n)*sqlite://"):
        resolve("journal", "oracle")


def test_a_missing_package_is_named_with_the_extra_that_brings_it(site: Path) -> None:
    (site / "undrift_needy.py").write_text("import no_such_package_of_undrift\n")
    with pytest.raises(MissingExtraError) as caught:
        resolve_path("undrift_needy:Store", wanted_for="journal needy://", extra="needy")
    assert str(caught.value) == (
        "journal needy:// needs the package 'no_such_package_of_undrift', which is not installed.\n"
        "  pip install 'undrift[needy]'"
    )


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("", "undrift_mine_a:Wrapper", "undrift_mine_a has no 'Wrapper'"),
        ("import no_such_package_of_undrift", "undrift_mine_b:Wrapper", "cannot be imported: No module named"),
        ("1 / 0", "undrift_mine_c:Wrapper", "raises while it is imported: ZeroDivisionError"),
        ("def (", "undrift_mine_d:Wrapper", "raises while it is imported: SyntaxError"),
        ("", "undrift_mine_e", r"write it as 'package\.module:attribute'"),
        ("", "", r"write it as 'package\.module:attribute'"),
        ("", "no_such_module_of_undrift:Wrapper", "cannot be imported"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_error(site: Path, source: str, target: str, says: str) -> None:
    (site / f"{target.partition(':')[0] or 'empty'}.py").write_text(source) if "no_such" not in target else None
    with pytest.raises(SettingsError, match=says) as caught:
        resolve_path(target, wanted_for="serve.wrapper")
    assert caught.value.message.startswith("serve.wrapper points to")


def test_our_own_errors_pass_through(site: Path) -> None:
    (site / "undrift_own.py").write_text("from undrift.errors import DeclarationError\nraise DeclarationError('no')\n")
    with pytest.raises(DeclarationError, match="no"):
        resolve_path("undrift_own:x", wanted_for="project.declarations")
