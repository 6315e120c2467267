"""The embedded server's life: start, stop, death, and what it finds when it comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import asyncpg
import pytest

from integration.conftest import installation_for
from marketd.market.errors import ConfigError
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.errors import EmbeddedError, EmbeddedInUse, EmbeddedStartFailed, NoInstallation
from marketd.sql.installations import Installation, choose_installation, find_installations
from marketd.sql.postmaster import read_postmaster_file, server_processes
from marketd.sql.profiles import Profile
from support import eventually

# Starts a server in a process of its own, says so, and waits; from a thread it gets no death signal.
_MARKETD = """
    import asyncio, sys, threading
    from pathlib import Path
    from marketd.sql.embedded import EmbeddedPostgres
    from marketd.sql.installations import probe

    def run():
        postgres = EmbeddedPostgres(Path(sys.argv[1]), installation=probe(Path(sys.argv[2])))
        asyncio.run(postgres.start())
        print("started", flush=True)
        threading.Event().wait()

    if sys.argv[3] == "thread":
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
"""


@pytest.fixture(scope="session")
def installation() -> Installation:
    return installation_for(Profile.POSTGRES)


@pytest.fixture(scope="session")
def seed(reachable_dir: Path, installation: Installation) -> Path:
    """The state directory of a server that was started once, to be copied: initdb takes longer than most tests."""
    path = reachable_dir / "seed"
    postgres = EmbeddedPostgres(path, installation=installation)
    asyncio.run(postgres.start())
    asyncio.run(postgres.stop())
    return path


@pytest.fixture
def state_dir(state_dir: Path, seed: Path) -> Path:
    subprocess.run(["cp", "--archive", seed, state_dir], check=True)
    return state_dir


@pytest.fixture
def postgres(state_dir: Path, installation: Installation) -> EmbeddedPostgres:
    return EmbeddedPostgres(state_dir, installation=installation)


def _start_another_marketd(state_dir: Path, installation: Installation, how: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_MARKETD), str(state_dir), str(installation.bin_dir), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


async def _value(dsn: str, query: str) -> object:
    conn = await asyncpg.connect(dsn)
    value: object = await conn.fetchval(query)
    await conn.close()
    return value


async def test_a_new_server_is_durable_private_and_in_utc(postgres: EmbeddedPostgres) -> None:
    conn = await asyncpg.connect(await postgres.start())
    shown = {
        name: await conn.fetchval(f"SHOW {name}")
        for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums", "listen_addresses")
    }
    assert shown == {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "listen_addresses": "",
    }
    assert await conn.fetchval("SHOW timezone") == "UTC"
    assert await conn.fetchval("SHOW server_encoding") == "UTF8"
    assert await conn.fetchval("SELECT datcollate FROM pg_database WHERE datname = 'marketd'") == "C"
    socket = Path(await conn.fetchval("SHOW unix_socket_directories"))
    assert socket.stat().st_mode & 0o777 == 0o700
    assert postgres.data_dir.stat().st_mode & 0o777 == 0o700
    await conn.close()
    await postgres.stop()


async def test_status_tells_the_stage_of_life(postgres: EmbeddedPostgres) -> None:
    assert (postgres.status.state, postgres.pid) == ("stopped", None)
    await postgres.start()
    status = postgres.status
    assert (status.state, status.starts, status.pid) == ("ready", 1, postgres.pid)
    assert status.start_seconds > 0
    assert status.dsn == postgres.dsn
    assert postgres.is_alive()
    await postgres.stop()
    assert (postgres.status.state, postgres.pid, postgres.is_alive()) == ("stopped", None, False)


async def test_starting_twice_is_starting_once(postgres: EmbeddedPostgres) -> None:
    dsn = await postgres.start()
    pid = postgres.pid
    assert await postgres.start() == dsn
    assert postgres.pid == pid
    await postgres.stop()
    await postgres.stop()


async def test_data_is_there_after_a_stop_and_after_a_kill(postgres: EmbeddedPostgres) -> None:
    await _value(await postgres.start(), "CREATE TABLE kept AS SELECT 1 AS i")
    await postgres.stop()
    await _value(await postgres.start(), "INSERT INTO kept VALUES (2)")
    os.kill(postgres.pid or 0, signal.SIGKILL)
    eventually(lambda: postgres.status.state == "died")
    assert await _value(await postgres.start(), "SELECT sum(i) FROM kept") == 3
    assert postgres.status.starts == 3
    await postgres.stop()


async def test_stop_ends_open_sessions_and_a_patient_one_waits_for_them(postgres: EmbeddedPostgres) -> None:
    conn = await asyncpg.connect(await postgres.start())
    await postgres.stop(fast=False, timeout_seconds=1)  # half a second of patience
    assert not postgres.is_alive()
    await conn.close()
    log = "".join(path.read_text() for path in (postgres.data_dir.parent / "log").glob("*.log"))
    assert "received smart shutdown request" in log
    assert "received fast shutdown request" in log
    assert "database system is shut down" in log


async def test_the_server_is_in_a_session_of_its_own(postgres: EmbeddedPostgres) -> None:
    await postgres.start()
    assert os.getsid(postgres.pid or 0) != os.getsid(0)
    await postgres.stop()


async def test_a_server_shuts_down_cleanly_when_its_marketd_is_killed(
    state_dir: Path, installation: Installation, postgres: EmbeddedPostgres
) -> None:
    marketd = _start_another_marketd(state_dir, installation, "main")
    assert server_processes(postgres.data_dir)
    _kill(marketd)
    eventually(lambda: not server_processes(postgres.data_dir))
    assert read_postmaster_file(postgres.data_dir) is None  # gone with a clean shutdown alone
    await postgres.start()
    await postgres.stop()


async def test_the_next_start_does_not_need_to_wait_for_that(
    state_dir: Path, installation: Installation, postgres: EmbeddedPostgres
) -> None:
    marketd = _start_another_marketd(state_dir, installation, "main")
    _kill(marketd)
    assert await _value(await postgres.start(), "SELECT 1") == 1
    await postgres.stop()


async def test_a_server_that_outlived_its_marketd_is_replaced(
    state_dir: Path, installation: Installation, postgres: EmbeddedPostgres
) -> None:
    marketd = _start_another_marketd(state_dir, installation, "thread")
    old = read_postmaster_file(postgres.data_dir)
    _kill(marketd)
    assert old is not None
    assert server_processes(postgres.data_dir)
    await postgres.start()
    assert postgres.pid != old.pid
    assert old.pid not in server_processes(postgres.data_dir)
    await postgres.stop()


async def test_backends_without_a_postmaster_are_ended(postgres: EmbeddedPostgres) -> None:
    await postgres.start()
    conn = await asyncpg.connect(postgres.dsn)
    backend = conn.get_server_pid()
    # it does not notice by itself while it computes
    busy = "DO $$ BEGIN FOR i IN 1..1000000000 LOOP NULL; END LOOP; END $$"
    task = asyncio.create_task(conn.execute(busy))
    await asyncio.sleep(0.1)
    os.kill(postgres.pid or 0, signal.SIGKILL)
    eventually(lambda: not postgres.is_alive())
    await postgres.start()
    assert backend not in server_processes(postgres.data_dir)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await task
    await postgres.stop()


async def test_a_stale_pid_that_is_somebody_elses_by_now_does_not_matter(postgres: EmbeddedPostgres) -> None:
    await postgres.start()
    os.kill(postgres.pid or 0, signal.SIGKILL)
    eventually(lambda: not server_processes(postgres.data_dir))
    stale = postgres.data_dir / "postmaster.pid"
    lines = stale.read_text().splitlines()
    stranger = subprocess.Popen(["sleep", "60"], user=stale.stat().st_uid if os.geteuid() == 0 else None)
    stale.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
    assert await _value(await postgres.start(), "SELECT 1") == 1
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    await postgres.stop()


async def test_a_second_marketd_on_the_same_directory_is_refused(
    state_dir: Path, installation: Installation, postgres: EmbeddedPostgres
) -> None:
    await postgres.start()
    second = EmbeddedPostgres(state_dir, installation=installation)
    with pytest.raises(EmbeddedInUse, match=f"process {os.getpid()}"):
        await second.start()
    assert await _value(postgres.dsn, "SELECT 1") == 1
    await postgres.stop()
    await second.start()
    await second.stop()


async def test_an_interrupted_initdb_leaves_nothing_that_looks_like_data(
    state_dir: Path, postgres: EmbeddedPostgres
) -> None:
    half = state_dir / "postgres" / "data.new"
    shutil.move(postgres.data_dir, half)
    (half / "global" / "pg_control").unlink()
    await postgres.start()
    assert not half.exists()
    await postgres.stop()


async def test_what_the_server_says_is_in_the_error(state_dir: Path, installation: Installation) -> None:
    postgres = EmbeddedPostgres(state_dir, installation=installation, settings={"shared_buffers": "nonsense"})
    with pytest.raises(EmbeddedStartFailed, match="shared_buffers"):
        await postgres.start()
    assert postgres.status.state == "stopped"
    healed = EmbeddedPostgres(state_dir, installation=installation)
    await healed.start()
    await healed.stop()


async def test_damaged_data_is_an_error_and_not_a_loop(postgres: EmbeddedPostgres) -> None:
    await postgres.start()
    await postgres.stop()
    (postgres.data_dir / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(EmbeddedStartFailed, match="pg_control"):
        await postgres.start()
    assert not server_processes(postgres.data_dir)


async def test_settings_reach_the_server_and_changed_ones_at_the_next_start(
    state_dir: Path, installation: Installation
) -> None:
    for value in ("11MB", "12MB"):
        postgres = EmbeddedPostgres(state_dir, installation=installation, settings={"work_mem": value})
        assert await _value(await postgres.start(), "SHOW work_mem") == value
        await postgres.stop()


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
def test_durability_cannot_be_switched_off(name: str, tmp_path: Path) -> None:
    for off in ("off", False, "FALSE", 0):
        with pytest.raises(ConfigError, match=rf"embedded\.settings\.{name}"):
            EmbeddedPostgres(tmp_path, settings={name: off})


@pytest.mark.parametrize("name", ["port", "unix_socket_directories", "work_mem = 1\nfsync"])
def test_what_marketd_sets_itself_cannot_be_overridden(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embedded\.settings"):
        EmbeddedPostgres(tmp_path, settings={name: "1"})


@pytest.mark.parametrize("text", ["127.0.0.1:0", ":5432", "host:99999", "a b:5432", "x'y:5432"])
def test_an_address_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embedded\.listen"):
        EmbeddedPostgres(tmp_path, listen=text)


async def test_over_tcp_there_is_only_the_reader_with_its_password(
    state_dir: Path, installation: Installation, unused_tcp_port: int
) -> None:
    listen = f"127.0.0.1:{unused_tcp_port}"
    postgres = EmbeddedPostgres(state_dir, installation=installation, listen=listen)
    await postgres.start()
    secret = state_dir / "postgres" / "reader.password"
    assert secret.stat().st_mode & 0o777 == 0o600
    url = f"postgresql://{{}}@{listen}/marketd"
    reader = await asyncpg.connect(url.format(f"marketd_reader:{secret.read_text().strip()}"))
    assert await reader.fetchval("SHOW search_path") == "marketd, public"
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await reader.execute("CREATE TABLE x (i int)")
    await reader.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url.format("marketd_reader:wrong"))
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(url.format("marketd:x"))
    await postgres.stop()


async def test_a_long_path_puts_the_socket_elsewhere(reachable_dir: Path, installation: Installation) -> None:
    deep = reachable_dir / ("d" * 90)
    short = reachable_dir / "run"
    short.mkdir(mode=0o711)
    for socket_dir, where in ((short, short), (None, Path(tempfile.gettempdir()))):
        postgres = EmbeddedPostgres(deep, installation=installation, socket_dir=socket_dir)
        assert await _value(await postgres.start(), "SELECT 1") == 1
        socket = Path(str(await _value(postgres.dsn, "SHOW unix_socket_directories")))
        assert socket.parent == where
        await postgres.stop()
        shutil.rmtree(socket)
    shutil.rmtree(deep)


async def test_a_data_directory_stays_with_the_version_that_made_it(state_dir: Path) -> None:
    found = find_installations()
    majors = {installation.major: installation for installation in found}
    if len(majors) < 2:
        pytest.skip("only one major version of PostgreSQL on this machine")
    old = majors[min(majors)]
    fresh = state_dir / "fresh"
    first = EmbeddedPostgres(fresh, installation=old)
    await first.start()
    await first.stop()
    anything = EmbeddedPostgres(fresh)
    await anything.start()
    assert anything.status.version == old.version
    await anything.stop()
    with pytest.raises(NoInstallation, match=f"made by PostgreSQL {old.major}.*{majors[max(majors)].version}"):
        await EmbeddedPostgres(fresh, installation=majors[max(majors)]).start()


_TS18 = Installation("18.4", Path("/a/bin"), True, "2.29.2")
_PLAIN18 = Installation("18.5", Path("/b/bin"), False)
_PLAIN17 = Installation("17.2", Path("/c/bin"), False)


def test_data_with_timescale_stays_with_timescale() -> None:
    found = [_PLAIN18, _TS18]
    assert choose_installation(found, major=18, needs_timescale=True) is _TS18
    with pytest.raises(NoInstallation, match="PostgreSQL 18 with TimescaleDB"):
        choose_installation([_PLAIN18], major=18, needs_timescale=True)


def test_the_installation_that_was_used_last_is_used_again() -> None:
    found = [_TS18, _PLAIN18, _PLAIN17]
    assert choose_installation(found) is _TS18
    assert choose_installation(found, major=18, last_bin_dir=Path("/b/bin")) is _PLAIN18
    assert choose_installation(found, major=17, last_bin_dir=Path("/gone/bin")) is _PLAIN17


def test_without_any_installation_the_error_tells_the_ways_out() -> None:
    with pytest.raises(NoInstallation, match=r"marketd\[embedded\].*MARKETD_PG_BIN.*database\.url"):
        choose_installation([])


def test_a_named_directory_is_the_only_one_looked_at(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MARKETD_PG_BIN", str(installation.bin_dir))
    assert [found.bin_dir for found in find_installations()] == [installation.bin_dir]
    monkeypatch.setenv("MARKETD_PG_BIN", str(tmp_path))
    with pytest.raises(NoInstallation, match="MARKETD_PG_BIN"):
        find_installations()


def test_timescale_comes_before_plain_and_new_before_old(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MARKETD_PG_BIN", raising=False)
    flags = [found.has_timescale for found in find_installations()]
    assert flags == sorted(flags, reverse=True)


async def test_started_outside_of_the_main_thread_it_says_what_that_means(
    postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    thread = threading.Thread(target=lambda: asyncio.run(postgres.start()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert "outside of the main thread" in caplog.text
    assert postgres.is_alive()
    await postgres.stop()


async def test_before_the_first_start_there_is_no_dsn(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedError, match="not started yet"):
        _ = postgres.dsn
