"""Replay against a real embedded store that the real sink has filled."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from policy_tools_harness import assert_one_line, book, run
from sink_harness import StoreProcess, new_sink, new_store

from authz_service.steps.message import digest
from authz_service.steps.policy import judge_all
from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.rules import Rules
from mcp_bridge.capture.sanitize import Sanitizer
from secure_mcp_grpc import als, headers
from secure_mcp_grpc.calls import McpCall
from secure_mcp_grpc.records import DecisionRecord, InteractionRecord, timestamp

OLD = """\
p, role:session, tools/list, *, allow
p, role:analyst, tools/call, query_db, allow, args.limit <= 100
p, role:analyst, tools/call, git_*, allow
p, role:user, tools/call, git_log, allow
g, role:analyst, role:session
g, model-a, role:analyst
g, user:idp:bob, role:user
"""
USER = "user:idp:ann"
OTHER = "user:idp:bob"


@dataclass
class Recorder:
    """Decides under a policy and records as authz_service and mcp_bridge do."""

    policy: Any
    decisions: list[als.Record] = field(default_factory=list)
    interactions: list[als.Record] = field(default_factory=list)
    seq: int = 0

    def call(
        self, identity: str, method: str, name: str = "", args: Any = None, user: str = "", roles: tuple[str, ...] = ()
    ) -> int:
        arguments = args or {}
        asked = McpCall(method, name, arguments)
        rulings = [one for _, one in judge_all(self.policy, identity or None, user or None, roles, asked)]
        refusing = [one for one in rulings if not one.allowed]
        reason = "permitted" if not refusing else "denied_by_rule" if refusing[0].rule else "not_permitted"
        self.decision(
            decision="deny" if refusing else "allow",
            reason=reason,
            rule=refusing[0].rule if refusing else "; ".join(one.rule for one in rulings),
            policy_version=self.policy.version,
            identity=identity or user,
            user=user,
            user_roles=rulings[-1].roles if user else (),
            token_roles=roles,
            method=method,
            tool=name,
            args_digest=digest(arguments),
        )
        if not refusing:
            us = self._now_us()
            done = InteractionRecord(
                ts=timestamp(us),
                request_id="",
                chain="c",
                seq=self.seq,
                identity=identity,
                user=user,
                method=method,
                tool=name,
                outcome="ok",
                arguments=Sanitizer(Rules(), Keyed(b"key")).text(arguments, 4096),
            )
            self.interactions.append((us * 1000, msgspec.json.encode(done)))
        return self.seq

    def decision(self, **fields: Any) -> None:
        self.seq += 1
        us = self._now_us()
        record = DecisionRecord(chain="c", seq=self.seq, ts=timestamp(us), **fields)
        self.decisions.append((us * 1000, msgspec.json.encode(record)))

    def _now_us(self) -> int:
        return round(time.time() * 1e6) - 3_600_000_000 + self.seq * 1000

    async def send(self, target: str) -> None:
        channel = als.sink_channel(target)
        for log_name, records in ((headers.LOG_AUTHZ, self.decisions), (headers.LOG_BRIDGE, self.interactions)):
            await als.send_batch(channel, log_name, "test", records)
        await channel.close()


@dataclass
class Traffic:
    """A store with recorded traffic, and the numbers of its calls."""

    store: StoreProcess
    calls: dict[str, int]
    total: int
    directory: Path

    @property
    def url(self) -> str:
        return f"http://reader:{self.store.password('reader')}@127.0.0.1:{self.store.port}/mcp"

    def replay(self, text: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Exit code and what --json prints."""
        policy = self.directory / "candidate.csv"
        policy.write_text(text)
        result = run("replay", policy, "--json", *options, env={"CLICKHOUSE_URL": self.url})
        assert result.stdout, result.stderr
        return result.returncode, json.loads(result.stdout)

    def listed(self, answer: dict[str, Any], now: str) -> set[str]:
        names = {seq: name for name, seq in self.calls.items()}
        return {names[call["seq"]] for call in answer["calls"] if call["now"] == now}


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    recorder = Recorder(book(OLD).policy)
    recorder.decision(kind="start")
    calls = {
        "list": recorder.call("model-a", "tools/list"),
        "small": recorder.call("model-a", "tools/call", "query_db", {"limit": 50}),
        "large": recorder.call("model-a", "tools/call", "query_db", {"limit": 90}),
        "refused": recorder.call("model-a", "tools/call", "query_db", {"limit": 500}),
        "bare": recorder.call("model-a", "tools/call", "query_db"),
        "redacted": recorder.call("model-a", "tools/call", "query_db", {"limit": 90, "token": "x"}),
        "cut": recorder.call("model-a", "tools/call", "query_db", {"limit": 10, "sql": "x" * 5000}),
        "user": recorder.call("model-a", "tools/call", "git_log", user=USER, roles=("role:user",)),
        "member": recorder.call("model-a", "tools/call", "git_log", user=OTHER),
        "token only": recorder.call("", "tools/call", "git_log", user=USER, roles=("role:user",)),
        "stranger": recorder.call("model-b", "tools/call", "git_log"),
    }
    recorder.decision(decision="deny", reason="no_certificate")
    recorder.decision(decision="deny", reason="quota_exceeded", identity="model-a", method="tools/call", tool="git_log")
    recorder.decisions.append(recorder.decisions[-1])  # a crash of the shipper sends a batch twice
    with new_store() as store, new_sink(store) as sink:
        asyncio.run(recorder.send(sink.target))
        yield Traffic(store, calls, recorder.seq - 1, tmp_path_factory.mktemp("replay"))


def test_the_same_policy_flips_nothing(traffic: Traffic) -> None:
    """Issue 3: replay under the policy that decided flips nothing, and leaves nothing undecided."""
    code, answer = traffic.replay(OLD)

    assert (code, answer["calls"]) == (0, [])
    assert answer["summary"] == {
        "decisions": traffic.total,
        "same": len(traffic.calls),
        "flips": 0,
        "undecided": 0,
        "untouched": 2,
        "unreadable": 0,
        "groups": [],
    }


def test_an_edited_policy_that_means_the_same_flips_nothing(traffic: Traffic) -> None:
    """Ours: the record says which conditions held; only of what was refused nothing is known."""
    code, answer = traffic.replay(f"# edited\n{OLD}")

    assert code == 0
    assert traffic.listed(answer, "undecided") == {"refused"}


def test_the_policy_of_then_decides_what_its_conditions_tell(traffic: Traffic) -> None:
    """Ours: with the policy that decided at hand, a refused call is known not to have met its conditions."""
    old = traffic.directory / "old.csv"
    old.write_text(OLD)

    assert traffic.replay(f"# edited\n{OLD}", "--old", str(old))[1]["calls"] == []
    assert_one_line(run("replay", old, "--old", "nowhere.csv", "--store", traffic.url), "nowhere.csv")


def test_each_flip_is_listed_and_counted(traffic: Traffic) -> None:
    """Issue 3: lists each call that flips, with counts by identity and tool, and exits with 1."""
    candidate = OLD.replace("tools/list, *", "ping, *") + "p, model-b, tools/call, git_log, allow\n"
    code, answer = traffic.replay(candidate)

    assert code == 1
    assert traffic.listed(answer, "deny") == {"list"}
    assert traffic.listed(answer, "allow") == {"stranger"}
    groups = {
        (one["identity"], one["method"], one["name"], one["change"]): one["calls"]
        for one in answer["summary"]["groups"]
    }
    assert groups == {
        ("model-a", "tools/list", "", "allow → deny"): 1,
        ("model-b", "tools/call", "git_log", "deny → allow"): 1,
        ("model-a", "tools/call", "query_db", "undecided"): 1,
    }


def test_conditions_are_decided_by_recorded_arguments_or_not_at_all(traffic: Traffic) -> None:
    """Issue 3: where recorded arguments are missing or cut, count separately, never guess; redacted ones may do."""
    code, answer = traffic.replay(OLD.replace("args.limit <= 100", "args.limit <= 60"))

    assert code == 1
    assert traffic.listed(answer, "deny") == {"large", "redacted"}
    assert traffic.listed(answer, "undecided") == {"refused", "cut"}
    undecided = [call for call in answer["calls"] if call["now"] == "undecided"]
    assert {call["why"] for call in undecided} == {"depends on arguments that were not recorded"}


def test_a_condition_on_what_was_redacted_is_not_guessed(traffic: Traffic) -> None:
    """Issue 3: redacted arguments decide nothing."""
    _, answer = traffic.replay(OLD.replace("args.limit <= 100", 'args.limit <= 100 and args.token == "x"'))

    assert traffic.listed(answer, "deny") == {"small", "large"}
    assert traffic.listed(answer, "undecided") == {"refused", "redacted", "cut"}


def test_undecided_calls_count_when_strict(traffic: Traffic) -> None:
    """Ours: CI may insist on certainty."""
    assert traffic.replay(f"# edited\n{OLD}", "--strict")[0] == 1


def test_workload_and_user_are_both_judged(traffic: Traffic) -> None:
    """Issue 3: with a certificate and a token both identities must be allowed; a token's roles are its own."""
    _, answer = traffic.replay(OLD.replace("p, role:user, tools/call, git_log", "p, role:user, tools/call, git_show"))
    assert traffic.listed(answer, "deny") == {"user", "member", "token only"}

    _, answer = traffic.replay(OLD.replace("git_*", "git_show"))
    assert traffic.listed(answer, "deny") == {"user", "member"}


def test_roles_of_the_old_policy_are_not_taken_for_the_tokens(traffic: Traffic) -> None:
    """Ours: a role that the candidate takes away is gone, though the record has it."""
    _, answer = traffic.replay(OLD.replace("g, user:idp:bob, role:user\n", ""))

    assert traffic.listed(answer, "deny") == {"member"}


def test_a_span_bounds_what_is_replayed(traffic: Traffic) -> None:
    """Issue 3: --since and --until."""
    assert traffic.replay(OLD, "--since", "10m")[1]["summary"]["decisions"] == 0
    assert traffic.replay(OLD, "--since", "2h", "--until", "90m")[1]["summary"]["decisions"] == 0
    assert traffic.replay(OLD, "--since", "2h", "--until", "30m")[1]["summary"]["decisions"] == traffic.total


def test_plain_output_has_a_line_for_each_flip(traffic: Traffic) -> None:
    """Issue 3: plain where it is no terminal; the address may come from the sidecar's directory."""
    home = traffic.directory / "home"
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "clickhouse-reader.url").write_text(traffic.url)
    policy = traffic.directory / "plain.csv"
    policy.write_text(OLD.replace("tools/list, *", "ping, *"))
    result = run("replay", policy, "--dir", home)

    assert result.returncode == 1
    flip, header, *rows = result.stdout.splitlines()
    assert flip.endswith("Z model-a: tools/list: allow → deny: no rule allows it")
    assert header.split("\t") == ["identity", "user", "method", "name", "change", "calls"]
    assert "model-a\t\ttools/list\t\tallow → deny\t1" in rows
    assert "1 flip" in result.stderr


def test_a_store_that_gives_no_answer_is_named_without_its_password(traffic: Traffic, tmp_path: Path) -> None:
    """Ours: bad input of every kind is one clear line, exit code 2."""
    policy = tmp_path / "p.csv"
    policy.write_text(OLD)
    reachable = f"127.0.0.1:{traffic.store.port}"
    for url, words in (
        ("http://reader:secret7@127.0.0.1:1/mcp", ("127.0.0.1:1", "does not answer")),
        (f"http://reader:secret7@{reachable}/mcp", (reachable, "password")),
        (f"{traffic.url}x", (reachable, "database")),
        ("file:///secret7", ("http[s]://",)),
        ("http://x:y@h:port/secret7", ("http[s]://",)),
    ):
        result = run("replay", policy, "--store", url)
        assert_one_line(result, *words)
        assert "secret7" not in result.stderr
    assert_one_line(run("replay", policy, "--dir", tmp_path), "clickhouse-reader.url", "--store")
    for option in ("--since", "--until"):
        assert_one_line(run("replay", policy, "--store", traffic.url, option, "yesterday"), option, "yesterday")
