"""What the state of its parts says about the whole daemon. Pure.

ok        everything runs and serves
degraded  something is missing, but records come in and questions are answered
failed    an essential actor (ingest, every query actor) does not answer, or the daemon has not started yet
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from marketd.daemon import plan
from marketd.ipc.protocol import ActorReport

SLOW_SECONDS = 30.0  # a transaction of a healthy writer takes one or two, and it is no more behind
_SERVING = ("live", "warming")


def judge(daemon_state: str, actors: Sequence[ActorReport], database_problem: str) -> tuple[str, list[str]]:
    """`ok | degraded | failed`, and a sentence for each thing that is not well."""
    problems = [f"{actor.name} is {actor.state}" for actor in actors if actor.state != "live"]
    problems += [problem for actor in actors if (problem := _database_problem(actor) or _journal_problem(actor))]
    problems += [problem for actor in actors for problem in _works_problems(actor)]
    problems += [problem for actor in actors for problem in _storage_problems(actor)]
    problems += feed_problems(actors)
    if database_problem:
        problems.append(database_problem)
    if daemon_state != "live":
        return "failed", [f"the daemon is {daemon_state}", *problems]
    dead = [role for role in plan.ESSENTIAL if not _serves(actors, role)]
    if dead:
        return "failed", [*(f"no {role} actor serves" for role in dead), *problems]
    return ("degraded" if problems else "ok"), problems


def _database_problem(actor: ActorReport) -> str:
    """What an actor waits for; else what its connections, or those to its replica, wait for."""
    writer, database, replica = (_part(actor.statistics, name) for name in ("writer", "database", "replica"))
    if writer.get("trouble"):
        return f"{actor.name} waits: {writer['trouble']}"
    if database.get("trouble") or database.get("state") == "down":
        return f"{actor.name} has no database: {database.get('trouble') or database.get('last_error')}"
    if writer.get("running_seconds", 0) > SLOW_SECONDS:
        return (
            f"{actor.name}'s transaction runs for {writer['running_seconds']:.0f} s: the database, or its disk, is slow"
        )
    if writer.get("lag_seconds", 0) > SLOW_SECONDS:
        behind = f"{actor.name} is {writer['lag_seconds']:.0f} s behind the journal"
        return f"{behind}: the database, or its disk, is slow, or catches up"
    if replica.get("state", "used") != "used":
        return f"{actor.name}'s read replica is {replica['state']}: the primary answers all queries"
    return ""


def _part(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def _journal_problem(actor: ActorReport) -> str:
    """What keeps an actor's journal from growing."""
    journal = actor.statistics.get("journal")
    blocked = journal.get("blocked") if isinstance(journal, dict) else None
    return f"{actor.name}'s journal: {blocked}" if blocked else ""


def _works_problems(actor: ActorReport) -> list[str]:
    """Background works that fail, and wait to be begun again."""
    works = actor.statistics.get("works")
    if not isinstance(works, dict):
        return []
    return [
        f"{actor.name}'s {name}: {work.get('last_error')}"
        for name, work in works.items()
        if isinstance(work, dict) and work.get("state") == "waiting"
    ]


def _storage_problems(actor: ActorReport) -> list[str]:
    """What the watch over the database's disk says, where an actor has one."""
    sizes = actor.statistics.get("sizes")
    return list(sizes.get("problems", [])) if isinstance(sizes, dict) else []


def feed_problems(actors: Iterable[ActorReport]) -> list[str]:
    """What venues do not give their feeds, or their instruments do not allow: perhaps the configuration is wrong."""
    kinds = (_away, _refusals, _silences, _unknown_symbols, _refused_settings)
    return [problem for actor in actors for told in kinds for problem in told(actor)]


def _away(actor: ActorReport) -> list[str]:
    away = _part(actor.statistics, "feed").get("away")
    return [f"{actor.name}'s venue is away: {words}" for words in away] if isinstance(away, list) else []


def _refusals(actor: ActorReport) -> list[str]:
    refused = _part(_part(actor.statistics, "feed"), "refused")
    return [f"{actor.name} is refused {symbol}: {words}" for symbol, words in refused.items()]


def _silences(actor: ActorReport) -> list[str]:
    silent = _part(_part(actor.statistics, "feed"), "silent")
    return [f"{actor.name} hears nothing of {symbol}: {streams}" for symbol, streams in silent.items()]


def _refused_settings(actor: ActorReport) -> list[str]:
    refused = _part(actor.statistics, "feed").get("refused_settings")
    return [f"{actor.name} uses the default: {words}" for words in refused] if isinstance(refused, list) else []


def _unknown_symbols(actor: ActorReport) -> list[str]:
    unknown, setting = _part(_part(actor.statistics, "feed"), "unknown_symbols"), f"venues.{plan.which_of(actor.name)}"
    return [
        f"{actor.name} has no {symbol} ({words}); correct it in {setting}.symbols, or remove it, and run marketd reload"
        for symbol, words in unknown.items()
    ]


def _serves(actors: Iterable[ActorReport], role: str) -> bool:
    """True also where no such actor is planned at all."""
    states = [actor.state for actor in actors if plan.role_of(actor.name) == role]
    return not states or any(state in _SERVING for state in states)
