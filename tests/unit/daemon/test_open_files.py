"""How many files an actor may have open."""

from __future__ import annotations

import resource

from marketd.daemon import actor_base


def test_an_actor_may_open_as_many_files_as_the_hard_limit_lets_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    expected = actor_base.OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, actor_base.OPEN_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, expected), hard))
        actor_base.allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (expected, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        actor_base.allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)  # never lowered
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
