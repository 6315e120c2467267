"""How psql is found and called; that it reaches the database is in tests/integration/ops."""

from __future__ import annotations

from pathlib import Path

import pytest

from marketd.daemon.settings import Config
from marketd.ops.cli import build_parser
from marketd.ops.verbs import psql
from marketd.sql.dsn import without_password

DSN = "postgresql://marketd:p%40ss@db.example:5432/marketd?sslmode=require"


def test_a_password_goes_by_the_environment() -> None:
    command = psql.command_for(Path("/bin/psql"), DSN, ["-c", "select 1"], {"PGOPTIONS": "-c jit=off"})
    assert command.arguments == [
        "/bin/psql",
        "postgresql://marketd@db.example:5432/marketd?sslmode=require",
        "-c",
        "select 1",
    ]
    assert command.environment["PGPASSWORD"] == "p@ss"
    assert command.environment["PGOPTIONS"] == "-c jit=off -c search_path=marketd,public"


def test_a_dsn_is_shown_without_its_password() -> None:
    assert without_password("postgresql://u@/db?password=x&host=%2Frun") == "postgresql://u@/db?host=%2Frun"
    assert without_password("postgresql://u@/db?host=%2Frun") == "postgresql://u@/db?host=%2Frun"
    command = psql.command_for(Path("/bin/psql"), "postgresql://u@/db?password=x", [], {})
    assert command.environment["PGPASSWORD"] == "x"


def test_what_stands_behind_the_dashes_goes_to_psql() -> None:
    args = build_parser(["psql"]).parse_args(["psql", "--config", "x.toml", "--", "-A", "-c", "select 1"])
    assert (args.config, args.arguments) == ("x.toml", ["-A", "-c", "select 1"])


def test_a_machine_without_psql_is_told_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(psql, "find_installations", list)
    with pytest.raises(psql.NoPsql, match="postgresql-client"):
        psql.find_psql(Config(state_dir=str(tmp_path)))
    beside = tmp_path / "bin"
    beside.mkdir()
    (beside / "psql").write_text("#!/bin/sh\n")
    (beside / "psql").chmod(0o755)
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "installation.json").write_text(f'{{"bin_dir": "{beside}"}}')
    assert psql.find_psql(Config(state_dir=str(tmp_path))) == beside / "psql"


def test_a_statement_needs_no_dashes_before_it() -> None:
    parser = build_parser()
    assert parser.parse_args(["psql", "-c", "select 1"]).sql == ["select 1"]
    assert parser.parse_args(["psql", "--", "-c", "select 1"]).arguments == ["-c", "select 1"]
