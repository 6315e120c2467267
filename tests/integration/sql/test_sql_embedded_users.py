"""Who the embedded server runs as, and what happens when that user cannot reach something."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

import marketd
from integration.conftest import installation_for
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.errors import EmbeddedError, NotReachable
from marketd.sql.identity import Identity, choose_identity, first_barrier
from marketd.sql.installations import Installation, find_installations, probe
from marketd.sql.profiles import Profile

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run the server as somebody else")
_NOBODY = pwd.getpwnam("nobody")
_nobody = Identity("nobody", _NOBODY.pw_uid, _NOBODY.pw_gid, ())

_LIFE = """
    import asyncio, os, sys
    from pathlib import Path
    import asyncpg
    from marketd.sql.embedded import EmbeddedPostgres
    from marketd.sql.installations import probe

    async def main():
        postgres = EmbeddedPostgres(Path(sys.argv[1]), installation=probe(Path(sys.argv[2])))
        conn = await asyncpg.connect(await postgres.start())
        await conn.execute("CREATE TABLE IF NOT EXISTS t AS SELECT 1")
        await conn.close()
        print(postgres.status.system_user)
        await postgres.stop()
        assert os.getuid() != 0

    asyncio.run(main())
"""


@pytest.fixture
def locked_dir(reachable_dir: Path) -> Iterator[Path]:
    """A directory that only root may enter."""
    path = reachable_dir / "locked"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


def _owner_of(process_id: int | None) -> str:
    return pwd.getpwuid(Path(f"/proc/{process_id}").stat().st_uid).pw_name


@as_root
@pytest.mark.parametrize("user", [None, "nobody"])
async def test_under_root_the_server_is_an_unprivileged_users(state_dir: Path, user: str | None) -> None:
    installation = installation_for(Profile.POSTGRES)
    postgres = EmbeddedPostgres(state_dir, user=user, installation=installation)
    await postgres.start()
    names = {entry.pw_name for entry in pwd.getpwall()}
    expected = user or ("postgres" if "postgres" in names else "nobody")
    assert _owner_of(postgres.pid) == expected == postgres.status.system_user
    assert postgres.data_dir.owner() == expected
    # what root writes lies where that user cannot put a link
    assert postgres.data_dir.parent.owner() == "root"
    status = Path(f"/proc/{postgres.pid}/status").read_text()
    assert f"CapEff:\t{0:016x}" in status
    await postgres.stop()
    # the owner of the data is the user from now on
    again = EmbeddedPostgres(state_dir, installation=installation)
    await again.start()
    assert again.status.system_user == expected
    await again.stop()
    with pytest.raises(EmbeddedError, match=f"belongs to user {expected}"):
        await EmbeddedPostgres(state_dir, user="daemon", installation=installation).start()


@as_root
async def test_an_ordinary_user_runs_its_own_server(state_dir: Path) -> None:
    python = _python_for(_nobody)
    installation = installation_for(Profile.POSTGRES)
    if first_barrier(installation.bin_dir, _nobody) is not None:
        pytest.skip("an ordinary user cannot reach any PostgreSQL here")
    state_dir.mkdir()
    os.chown(state_dir, _nobody.uid, _nobody.gid)
    for _ in range(2):  # the second start goes on from the same data
        done = subprocess.run(
            [python, "-c", textwrap.dedent(_LIFE), str(state_dir), str(installation.bin_dir)],
            user=_nobody.uid,
            group=_nobody.gid,
            extra_groups=[],
            env={"PYTHONPATH": os.pathsep.join(_import_paths()), "PATH": os.environ["PATH"]},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr, done.returncode) == ("nobody\n", "", 0)


def _python_for(identity: Identity) -> str:
    """An interpreter of our own version that the user can run (ours may be below /root)."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        paths = [Path(candidate), *(Path(path) for path in _import_paths())]
        if Path(candidate).exists() and all(_reaches(path, identity) for path in paths):
            return candidate
    pytest.skip(f"user {identity.name} can reach no {version} with our packages")


def _reaches(path: Path, identity: Identity) -> bool:
    return first_barrier(path.resolve().parent, identity) is None


def _import_paths() -> list[str]:
    return [str(Path(marketd.__file__).parent.parent), str(Path(asyncpg.__file__).parent.parent)]


@as_root
async def test_binaries_out_of_reach_are_copied_into_the_state_directory(state_dir: Path, locked_dir: Path) -> None:
    wheel = next((i for i in find_installations() if i.prefix.name.startswith("pginstall")), None)
    if wheel is None:
        pytest.skip("the binaries of the [embedded] extra are not installed")
    out_of_reach = _copy_of_wheel(wheel, locked_dir)
    postgres = EmbeddedPostgres(state_dir, installation=out_of_reach)
    await postgres.start()
    assert Path(postgres.status.bin_dir).is_relative_to(state_dir)
    assert os.readlink(f"/proc/{postgres.pid}/exe").startswith(str(state_dir))
    await postgres.stop()
    # the copy serves again, and the original is still what the data directory belongs to
    await postgres.start()
    assert Path(postgres.status.bin_dir).is_relative_to(state_dir)
    await postgres.stop()


def _copy_of_wheel(wheel: Installation, target: Path) -> Installation:
    package = wheel.prefix.parent
    ignore = shutil.ignore_patterns("include", "*.a", "pgxs")
    shutil.copytree(wheel.prefix, target / package.name / wheel.prefix.name, symlinks=True, ignore=ignore)
    shutil.copytree(package.with_name(package.name + ".libs"), target / (package.name + ".libs"))
    copied = probe(target / package.name / wheel.prefix.name / "bin")
    assert copied is not None
    return copied


@as_root
async def test_a_state_directory_out_of_reach_is_an_error_that_names_the_way_out(locked_dir: Path) -> None:
    postgres = EmbeddedPostgres(locked_dir / "state", installation=installation_for(Profile.POSTGRES))
    with pytest.raises(NotReachable, match=rf"cannot enter {locked_dir} \(mode 0700\).*set state_dir to") as error:
        await postgres.start()
    assert f"chmod o+x {locked_dir}" in str(error.value)
    assert "embedded.user" in str(error.value)


@as_root
async def test_a_link_in_place_of_a_private_directory_is_not_followed(state_dir: Path, locked_dir: Path) -> None:
    (state_dir / "postgres").mkdir(parents=True)
    state_dir.chmod(0o711)
    (state_dir / "postgres").chmod(0o711)
    (state_dir / "postgres" / "log").symlink_to(locked_dir)
    with pytest.raises(EmbeddedError, match="no directory of user"):
        await EmbeddedPostgres(state_dir, installation=installation_for(Profile.POSTGRES)).start()
    assert locked_dir.owner() == "root"


@as_root
@pytest.mark.parametrize(("user", "words"), [("root", "refuses to run as root"), ("no_such_user", "no such user")])
def test_a_user_that_cannot_be_is_refused(user: str, words: str) -> None:
    with pytest.raises(EmbeddedError, match=words):
        choose_identity(user, None)


def test_an_ordinary_user_cannot_run_it_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: _nobody.uid)
    assert choose_identity(None, None).uid == _nobody.uid
    with pytest.raises(EmbeddedError, match=r"only root.*leave embedded\.user out"):
        choose_identity("postgres", None)
    with pytest.raises(EmbeddedError, match="belongs to user root"):
        choose_identity(None, 0)


def test_the_first_directory_in_the_way_is_named(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    stranger = Identity("stranger", 12345, 12345, ())
    (tmp_path / "a").chmod(0o755)
    (tmp_path / "a" / "b").chmod(0o700)
    barrier = first_barrier(inner, stranger)
    assert barrier is not None
    assert inner.is_relative_to(barrier)
    (tmp_path / "a" / "b").chmod(0o701)
    ours = Identity("we", os.geteuid(), os.getegid(), ())
    assert first_barrier(inner, ours) is None
