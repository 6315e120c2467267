"""What a daemon says of itself stays readable for the clients of the version before."""

from __future__ import annotations

from marketd.ipc.protocol import Description


def test_a_description_has_no_field_that_a_client_of_the_version_before_would_refuse() -> None:
    """Messages are read strictly; how deep books are is therefore told by each answer that has some."""
    assert set(Description.__struct_fields__) == {
        *("v", "id", "instance", "daemon_no", "version", "runtime_dir", "profile"),
        *("timeframes", "streams", "instruments", "aliases", "default_venue"),
    }
