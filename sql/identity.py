"""Whom the embedded server runs as, and whether that user can reach what it needs.

PostgreSQL refuses to run as root, and marketd often is root. Reachability is judged from the mode bits of
every directory on the way, so that an error can name the one that blocks, before anything is started.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import NamedTuple

from marketd.sql.errors import EmbeddedError, NotReachable

DEFAULT_USERS = ("postgres", "nobody")


class Identity(NamedTuple):
    """A system user with what the kernel checks."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def choose_identity(user: str | None, data_owner_uid: int | None) -> Identity:
    """Who runs the server: ourselves when we are an ordinary user; as root `user`, else the owner of the
    data directory that exists, else `postgres`, else `nobody`. Raises EmbeddedError when these contradict
    each other.
    """
    identity = _ourselves(user) if os.geteuid() != 0 else _unprivileged(user, data_owner_uid)
    if data_owner_uid not in (None, identity.uid):
        raise EmbeddedError(
            f"the data directory belongs to user {_name_of(data_owner_uid)}, and the server would run as "
            f"{identity.name}; set embedded.user to its owner, or chown -R it"
        )
    return identity


def first_barrier(path: Path, identity: Identity) -> Path | None:
    """The first directory on the way to `path` (itself included) that `identity` may not enter, or None."""
    resolved = path.resolve()
    for directory in [*reversed(resolved.parents), resolved]:
        if directory.is_dir() and not _may_enter(directory, identity):
            return directory
    return None


def require_reach(path: Path, identity: Identity, setting: str) -> None:
    """Raise NotReachable naming the directory in the way and the ways out; `setting` moves `path`
    elsewhere."""
    barrier = first_barrier(path, identity)
    if barrier is None:
        return
    mode = stat.S_IMODE(barrier.stat().st_mode)
    raise NotReachable(
        f"the database's system user {identity.name!r} cannot enter {barrier} (mode {mode:04o}), which lies "
        f"on the way to {path}; set {setting} to a directory it can reach, such as /var/lib/marketd, or let "
        f"it pass with chmod o+x {barrier}, or name a user that can in embedded.user"
    )


def make_private_directory(path: Path, identity: Identity) -> None:
    """`path` as a directory of `identity`, mode 0700; what is there already must be just that."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()  # not stat: in a directory open to all, a link may have been put there
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != identity.uid:
            raise EmbeddedError(f"{path} is no directory of user {identity.name!r}; remove or chown it") from None
        path.chmod(0o700)
        return
    if os.geteuid() == 0:
        os.chown(path, identity.uid, identity.gid)


def _may_enter(directory: Path, identity: Identity) -> bool:
    found = directory.stat()
    if identity.uid == 0:
        return True
    if found.st_uid == identity.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == identity.gid or found.st_gid in identity.groups:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _ourselves(user: str | None) -> Identity:
    uid = os.geteuid()
    name = _name_of(uid)
    if user and user != name:
        raise EmbeddedError(
            f"embedded.user is {user!r}, and marketd runs as {name!r}: only root can run the database as "
            "somebody else; leave embedded.user out"
        )
    return Identity(name, uid, os.getegid(), tuple(os.getgroups()))


def _unprivileged(user: str | None, data_owner_uid: int | None) -> Identity:
    if user:
        entry = _entry(user)
        if entry is None:
            raise EmbeddedError(f"embedded.user names {user!r}, and this machine has no such user")
    elif data_owner_uid:
        entry = pwd.getpwuid(data_owner_uid)
    else:
        entry = next((e for name in DEFAULT_USERS if (e := _entry(name))), None)
        if entry is None:
            raise EmbeddedError(
                f"marketd runs as root and none of the users {', '.join(DEFAULT_USERS)} exists; name an "
                "unprivileged one in embedded.user"
            )
    if entry.pw_uid == 0:
        raise EmbeddedError("PostgreSQL refuses to run as root; name an unprivileged user in embedded.user")
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Identity(entry.pw_name, entry.pw_uid, entry.pw_gid, groups)


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _name_of(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:  # a container may run us under a number without an entry
        return str(uid)
