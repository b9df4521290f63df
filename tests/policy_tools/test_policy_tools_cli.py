"""The commands as a person or CI runs them: output and exit codes."""

import json
from pathlib import Path

import pytest
from policy_tools_harness import POLICY, assert_one_line, run


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.csv"
    path.write_text(POLICY)
    return path


def lines_of(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_check_accepts_what_the_service_accepts(policy: Path) -> None:
    """Issue 3: check. Roles that tokens bring are told by an option."""
    result = run("check", policy, "--token-roles")

    assert (result.returncode, result.stdout) == (0, "")
    assert "is accepted" in result.stderr


def test_check_names_file_and_line_of_everything(tmp_path: Path) -> None:
    """Issue 3: an unknown method, a role nobody has, a rule shadowed by a deny: everything with file:line."""
    bad = tmp_path / "bad.csv"
    bad.write_text(
        "p, role:x, tools/cal, a, allow\np, m, tools/call, git_log, allow\np, m, tools/call, git_*, deny\n"
        "p, m, tools/list, *, allow\np, m, tools/list, *, allow\n"
    )
    result = run("check", bad)

    assert result.returncode == 1
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == [f"{bad}:{n}" for n in (1, 1, 2, 5)]
    assert "perhaps tools/call?" in result.stdout
    assert f"{bad}:5: warning: " in result.stdout


def test_check_names_every_line_that_is_none(tmp_path: Path) -> None:
    """Issue 3: a file that does not parse is refused with line numbers."""
    bad = tmp_path / "bad.csv"
    bad.write_text("p, m\nx, y\np, m, tools/call, a, allow, import os\n")
    result = run("check", bad, "--json")

    assert result.returncode == 1
    assert [problem["line"] for problem in json.loads(result.stdout)["problems"]] == [1, 2, 3]


def test_check_compares_conditions_with_the_tools(policy: Path, tmp_path: Path) -> None:
    """Issue 3: a condition on an argument that the tool's schema does not have is refused."""
    catalog = tmp_path / "tools.json"
    schema = {"type": "object", "properties": {"max": {"type": "integer"}}}
    catalog.write_text(json.dumps({"tools": [{"name": "query_db", "inputSchema": schema}]}))
    result = run("check", policy, "--tools", catalog, "--token-roles")

    assert result.returncode == 1
    assert f"{policy}:2: " in result.stdout
    assert "limit" in result.stdout


def test_check_knows_what_the_services_settings_say(policy: Path, tmp_path: Path) -> None:
    """Ours: what the service would refuse depends on its settings; they are read as it reads them."""
    config = tmp_path / "sidecar.yaml"
    config.write_text(f"authz: {{policy_file: {policy}, token_roles: true, extra_methods: [acme/do]}}\n")
    policy.write_text(POLICY + "p, model-a, acme/do, *, allow\n")

    assert run("check", "--config", config).returncode == 0
    assert "acme/do" in run("can", "model-a", "--config", config).stdout
    assert run("check", policy).returncode == 1
    assert_one_line(run("check", policy, env={"MCP_AUTHZ_TOKEN_ROLES": "perhaps"}), "MCP_AUTHZ_TOKEN_ROLES", "perhaps")


@pytest.mark.parametrize(
    "setting",
    [
        "issuers: [{name: corp, issuer: 'https://idp.example', audience: mcp, roles_claim: groups}]",
        "authenticators: [x509, other]",
        "token_roles: true",
    ],
)
def test_check_accepts_a_role_wherever_the_service_does(policy: Path, tmp_path: Path, setting: str) -> None:
    """Ours: tokens bring roles by an issuer's roles_claim, too: what the service loads, check does not refuse."""
    config = tmp_path / "sidecar.yaml"
    config.write_text(f"authz: {{{setting}}}\n")
    result = run("check", policy, "--config", config)

    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_warnings_count_only_when_strict(tmp_path: Path) -> None:
    """Issue 3: check has refusals and warnings."""
    odd = tmp_path / "odd.csv"
    odd.write_text("p, m, tools/list, *, allow\np, m, tools/list, *, allow\n")

    assert run("check", odd).returncode == 0
    assert run("check", odd, "--strict").returncode == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "good.yaml",
            "- {subject: model-a, method: tools/call, name: query_db, args: {limit: 100}, expect: allow, rule: 2}\n"
            "- {subject: model-a, method: tools/call, name: git_push, expect: deny, rule: 4}\n"
            "- {subject: 'user:idp:ann', method: tools/call, name: git_log, roles: ['role:user'], expect: allow}\n"
            "- {subject: 'user:idp:ann', method: tools/call, name: git_log, roles: [user], expect: allow}\n"
            "- {subject: model-b, method: tools/list, expect: deny, rule: 0}\n",
        ),
        (
            "good.csv",
            "subject, method, name, args, roles, expect, rule\n"
            '# comment\nmodel-a, tools/call, query_db, "{""limit"": 100}", , allow, 2\n'
            "user:idp:ann, tools/call, git_log, , role:user, allow\n"
            "user:idp:ann, tools/call, git_log, , other user, allow\n",
        ),
    ],
)
def test_expectations_that_hold_pass(policy: Path, tmp_path: Path, name: str, text: str) -> None:
    """Issue 3: test, YAML or CSV, exit code for CI."""
    file = tmp_path / name
    file.write_text(text)
    result = run("test", file, "--policy", policy)

    assert (result.returncode, result.stdout) == (0, ""), result.stdout
    assert "0 not met" in result.stderr


def test_a_failed_expectation_names_the_rule_that_decided(policy: Path, tmp_path: Path) -> None:
    """Issue 3: failing ones with the deciding rule."""
    file = tmp_path / "expected.yaml"
    file.write_text(
        "- {subject: model-a, method: tools/list, expect: allow}\n"
        "- {subject: model-a, method: tools/call, name: git_push, expect: allow}\n"
        "- {subject: model-a, method: tools/call, name: git_log, expect: allow, rule: 9}\n"
    )
    result = run("test", file, "--policy", policy)

    assert result.returncode == 1
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{file}:2: model-a tools/call git_push: expected allow, got deny by {policy}:4: p, ")
    assert second.startswith(f"{file}:3: ")
    assert "expected allow by line 9, got allow by" in second


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("e.yaml", "- {subject: a, method: b, expect: maybe}\n", (":1:", "maybe")),
        (
            "e.yaml",
            "- {subject: a, method: ping, expect: allow}\n- {subject: a, method: b, expct: deny}\n",
            (":2:", "expct"),
        ),
        ("e.yaml", "- subject: a\n  method: b\n  subject: c\n  expect: deny\n", (":3:", "twice")),
        ("e.yaml", "- {subject: a, method: b}\n", (":1:", "expect is missing")),
        ("e.yaml", "- {subject: 7, method: b, expect: deny}\n", (":1:", "subject", "7")),
        ("e.yaml", "- {subject: a, method: b, expect: deny, args: [1]}\n", (":1:", "args")),
        ("e.yaml", "- {subject: a, method: b, expect: deny, args: {d: 2026-01-01}}\n", (":1:", "quotes")),
        ("e.yaml", "- {subject: a, method: b, expect: deny, roles: ['role:']}\n", (":1:", "role without a name")),
        ("e.yaml", "- {subject: a, method: b, expect: deny, roles: ['']}\n", (":1:", "role without a name")),
        ("e.yaml", "- {subject: a, method: b, expect: deny, roles: reader}\n", (":1:", "list of names")),
        (
            "e.yaml",
            "- {subject: a, method: ping, expect: deny}\n- {subject: a, method: tool/call, name: x, expect: deny}\n",
            (":2:", "no client sends the method tool/call; perhaps tools/call?"),
        ),
        ("e.yaml", "- {subject: a, method: tools/*, name: x, expect: deny}\n", (":1:", "tools/*")),
        ("e.yaml", "- {subject: a, method: acme/d, expect: deny}\n", (":1:", "acme/d; perhaps acme/do?")),
        (
            "e.yaml",
            "- {subject: a, method: tools/list, name: x, expect: deny}\n",
            (":1:", "tools/list names nothing that could be x; leave the name out"),
        ),
        ("e.yaml", "- {subject: a, method: tools/call, expect: deny}\n", (":1:", "name is missing")),
        ("e.csv", "subject, method, name, expect\na, tools/cal, x, deny\n", (":2:", "tools/cal; perhaps")),
        ("e.csv", "subject, method, name, expect\na, tools/call, , deny\n", (":2:", "name is missing")),
        ("e.yaml", "- {subject: a, method: b, expect: deny, rule: first}\n", (":1:", "first")),
        ("e.yaml", "a: [\n", (":2:", "not YAML")),
        ("e.yaml", "", ("list",)),
        ("e.yaml", "text\n", (":1:", "list")),
        ("e.csv", "subject, method\na, b\n", (":1:", "expect")),
        ("e.csv", "subject, method, expct\n", (":1:", "expct")),
        ("e.csv", "subject, method, expect\na, b, allow, c\n", (":2:", "4 fields")),
        ("e.csv", "subject, method, expect, args\na, b, allow, {x}\n", (":2:", "JSON")),
        ("e.csv", 'subject, method, expect\na, "b, allow\n', (":2:", "quotes")),
        ("e.csv", "subject, method, expect, rule\na, b, allow, x\n", (":2:", "number of a line")),
        ("e.csv", "subject, method, expect\n", ("no expectations",)),
    ],
)
def test_bad_expectations_are_named_with_their_line(
    policy: Path, tmp_path: Path, name: str, text: str, words: tuple[str, ...]
) -> None:
    """Issue 3: bad expectation files: an error with the line."""
    from secure_mcp_grpc.cli import policy_input
    from secure_mcp_grpc.errors import UserError

    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        policy_input.expectations(file, frozenset({"acme/do"}))
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(file))
    for word in words:
        assert word in str(refused.value), refused.value


def test_a_misspelt_method_is_no_expectation(policy: Path, tmp_path: Path) -> None:
    """Ours: "deny" of what nobody can send holds under every policy and would pass for ever."""
    file = tmp_path / "expected.yaml"
    file.write_text("- {subject: model-a, method: tool/call, name: git_push, expect: deny}\n")

    assert_one_line(run("test", file, "--policy", policy), f"{file}:1: ", "perhaps tools/call?")
    assert_one_line(run("test", file, "--policy", "nowhere.csv"), f"{file}:1: ")


def test_an_extensions_method_may_be_expected(policy: Path, tmp_path: Path) -> None:
    """Ours: `extra_methods` counts for expectations and questions as it does for rules."""
    file, config = tmp_path / "expected.yaml", tmp_path / "sidecar.yaml"
    file.write_text("- {subject: model-a, method: acme/do, expect: deny}\n")
    config.write_text("authz: {extra_methods: [acme/do]}\n")

    assert run("test", file, "--policy", policy, "--config", config).returncode == 0
    assert_one_line(run("test", file, "--policy", policy), "acme/do")
    assert run("explain", "model-a", "acme/do", "--policy", policy, "--config", config).stderr == ""


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        (("tool/call", "git_log"), "hint: no client sends the method tool/call; perhaps tools/call?\n"),
        (("qqq",), "hint: no client sends the method qqq\n"),
        (("tools/list", "x"), "hint: tools/list names nothing that could be x; leave the name out\n"),
        (("tools/list",), ""),
        (("tools/call", "git_log"), ""),
        (("completion/complete",), ""),
    ],
)
def test_a_question_that_nobody_can_ask_is_answered_with_a_hint(
    policy: Path, asked: tuple[str, ...], hint: str
) -> None:
    """Ours: the answer stays on standard output, so that scripts go on working."""
    for command in (("explain", "model-a"), ("who-can",)):
        result = run(*command, *asked, "--policy", policy, "--json")

        assert result.returncode == 0
        assert result.stderr == hint
        assert json.loads(result.stdout) or command == ("who-can",)


def test_explain_names_rule_roles_condition_and_what_would_change_it(policy: Path) -> None:
    """Issue 3: explain: which rule, which roles, what would change it."""
    result = run("explain", "model-a", "tools/call", "query_db", "--args", '{"limit": 500}', "--policy", policy)

    assert result.returncode == 0
    said = result.stdout.splitlines()
    assert said[0] == "denied: no rule allows it"
    assert "role: model-a → role:analyst (line 7)" in said
    assert (
        f"rule: {policy}:2: p, role:analyst, tools/call, query_db, allow, args.limit <= 100: the condition is false"
        in said
    )
    assert "to turn it: call with limit = 100" in said


def test_explain_says_why_a_condition_cannot_be_evaluated(policy: Path) -> None:
    """Issue 3: each candidate rule with the result of its condition."""
    result = run("explain", "model-a", "tools/call", "query_db", "--policy", policy, "--json")
    answer = json.loads(result.stdout)

    assert (answer["verdict"], answer["line"]) == ("deny", 0)
    (rule,) = answer["rules"]
    assert (rule["outcome"], rule["line"], rule["via"]) == ("condition_failed", 2, ["model-a", "role:analyst"])
    assert "limit" in rule["detail"]
    assert answer["roles"] == [
        {"role": "role:analyst", "via": ["model-a", "role:analyst"], "lines": [7]},
        {"role": "role:session", "via": ["model-a", "role:analyst", "role:session"], "lines": [7, 6]},
    ]


def test_explain_names_the_deny_to_remove(policy: Path) -> None:
    """Issue 3: what would change it: the deny to remove."""
    result = run("explain", "model-a", "tools/call", "git_push", "--policy", policy)

    assert result.stdout.startswith(f"denied: {policy}:4: p, role:analyst, tools/call, *_push, deny\n")
    assert "to turn it: remove line 4\n" in result.stdout


def test_explain_takes_roles_as_a_token_gives_them(policy: Path) -> None:
    """Issue 3: roles may come from claims."""
    result = run("explain", "user:idp:ann", "tools/call", "git_log", "--roles", "user", "--policy", policy)

    assert result.stdout.startswith(f"allowed: {policy}:5: ")
    assert "role: user:idp:ann → role:user (given)\n" in result.stdout


def test_who_can_lists_identities_and_roles_with_their_conditions(policy: Path) -> None:
    """Issue 3: who-can METHOD NAME."""
    result = run("who-can", "tools/call", "query_db", "--policy", policy)

    header, *rows = lines_of(result.stdout)
    assert header == ["subject", "allowed", "rules", "via"]
    assert rows == [
        ["model-a", "if args.limit <= 100", f"{policy}:2", "role:analyst"],
        ["role:analyst", "if args.limit <= 100", f"{policy}:2", ""],
    ]
    assert run("who-can", "tools/call", "git_push", "--policy", policy).stdout == ""


def test_can_lists_a_subjects_rules(policy: Path) -> None:
    """Issue 3: can SUBJECT: method, name, effect, condition, via which role."""
    result = run("can", "model-a", "--policy", policy, "--json")

    rows = [tuple(row.values()) for row in json.loads(result.stdout)]
    assert rows == [
        ("tools/list", "*", "allow", "", "role:analyst → role:session", "1", ""),
        ("tools/call", "query_db", "allow", "args.limit <= 100", "role:analyst", "2", ""),
        ("tools/call", "git_*", "allow", "", "role:analyst", "3", ""),
        ("tools/call", "*_push", "deny", "", "role:analyst", "4", ""),
    ]


def test_can_says_what_a_deny_of_another_role_overrides(tmp_path: Path) -> None:
    """Ours: an allow of one role that a deny of another one takes away is marked."""
    policy = tmp_path / "p.csv"
    policy.write_text(
        "p, role:a, tools/call, git_log, allow\np, role:b, tools/call, git_*, deny\ng, m, role:a\ng, m, role:b\n"
    )
    rows = json.loads(run("can", "m", "--policy", policy, "--json").stdout)

    assert [row["overridden_by"] for row in rows] == ["line 2", ""]


def test_diff_says_who_gains_and_loses(policy: Path, tmp_path: Path) -> None:
    """Issue 3: diff OLD NEW; exit code 1 on request."""
    new = tmp_path / "new.csv"
    new.write_text(POLICY.replace("<= 100", "<= 50").replace("tools/list, *", "ping, *") + "g, model-b, role:user\n")
    result = run("diff", policy, new, "--exit-code")

    assert result.returncode == 1
    _, *rows = lines_of(result.stdout)
    assert ["model-a", "loses", "tools/list", "*", "yes", "no", "1", "", ""] in rows
    assert ["model-a", "gains", "ping", "*", "no", "yes", "", "1", ""] in rows
    assert ["model-b", "gains", "tools/call", "git_log", "no", "yes", "", "5", ""] in rows
    changed = [
        "model-a",
        "loses",
        "tools/call",
        "query_db",
        "if args.limit <= 100",
        "if args.limit <= 50",
        "2",
        "2",
        "",
    ]
    assert changed in rows
    assert run("diff", policy, new).returncode == 0
    same = run("diff", policy, policy, "--exit-code", "--json")
    assert (same.returncode, json.loads(same.stdout)["changes"]) == (0, [])


def test_the_sidecars_own_policy_is_the_default(tmp_path: Path) -> None:
    """Ours: DIR/policy.csv."""
    (tmp_path / "policy.csv").write_text(POLICY)
    result = run("can", "role:user", "--dir", tmp_path)

    assert "git_log" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("explain", "m", "tools/call", "x", "--args", "{"), ("--args", "JSON")),
        (("explain", "m", "tools/call", "x", "--args", "[]"), ("--args", "object")),
        (("explain", "m", "tools/call", "x", "--args", '{"a": 1, "a": 2}'), ("--args", "twice")),
        (("explain", "m", "tools/call", "x", "--roles", "role:"), ("--roles",)),
        (("can", "m", "--policy", "nowhere.csv"), ("nowhere.csv",)),
        (("can", "m", "--model", "nowhere.conf"), ("nowhere.conf",)),
        (("check", "nowhere.csv"), ("nowhere.csv",)),
        (("check", "--tools", "nowhere.json"), ("nowhere.json",)),
        (("test", "nowhere.yaml"), ("nowhere.yaml",)),
        (("diff", "nowhere.csv", "nowhere.csv"), ("nowhere.csv",)),
        (("replay", "nowhere.csv"), ("nowhere.csv",)),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Ours: every bad input names the thing, exit code 2."""
    (tmp_path / "policy.csv").write_text(POLICY)
    where = () if arguments[0] == "diff" else ("--dir", tmp_path)
    assert_one_line(run(*arguments, *where), *words)


def test_a_policy_that_the_service_refuses_is_no_basis(tmp_path: Path) -> None:
    """Ours: the other commands do not reason about what is never in force."""
    bad = tmp_path / "bad.csv"
    bad.write_text("p, m\n")
    assert_one_line(run("can", "m", "--policy", bad), f"{bad}:1:")


def test_a_model_that_asks_more_is_not_listed_but_explained(policy: Path, tmp_path: Path) -> None:
    """Ours: what only the engine can tell is not guessed at."""
    from policy_tools_harness import MODEL

    model = tmp_path / "model.conf"
    model.write_bytes(MODEL.replace(b"&& eval(p.cond)", b'&& eval(p.cond) && r.sub != "model-a"'))
    assert_one_line(run("who-can", "tools/call", "git_log", "--policy", policy, "--model", model), "matcher", "explain")
    explained = run("explain", "model-a", "tools/call", "git_log", "--policy", policy, "--model", model)
    assert explained.stdout.startswith("denied: "), explained.stderr
