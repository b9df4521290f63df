"""`secure-mcp-grpc policy`: tools for the owner of a policy. They ask the engine that decides in production."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secure_mcp_grpc.cli import policy_input
from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.cli.policy_input import ConfigOption, Files, JsonOption, ModelOption, PolicyOption
from secure_mcp_grpc.cli.policy_output import Printer
from secure_mcp_grpc.cli.policy_replay import replay
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from authz_service.policy import Ruling
    from authz_service.workbench.book import Book, Held
    from authz_service.workbench.diff import Change
    from authz_service.workbench.explain import Explanation

__all__ = ["app"]

app = typer.Typer(help="Check, test, explain, compare and replay a policy.", no_args_is_help=True)
app.command()(replay)

RolesOption = Annotated[str, typer.Option("--roles", help="Further roles, as a token would give them.", metavar="A,B")]
ArgsOption = Annotated[str, typer.Option("--args", help="Arguments of the call, a JSON object.", metavar="JSON")]
SubjectArgument = Annotated[str, typer.Argument(help="Identity, user:ISSUER:NAME or role:NAME.")]
MethodArgument = Annotated[str, typer.Argument(help="MCP method, e.g. tools/call.")]
NameArgument = Annotated[str, typer.Argument(help="Tool, prompt or resource URI; left out for methods without one.")]


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="Policy file.", show_default="DIR/policy.csv")] = None,
    tools: Annotated[Path | None, typer.Option(help="A tools/list result: names and arguments that exist.")] = None,
    token_roles: Annotated[
        bool, typer.Option("--token-roles", help="Tokens bring roles: one may be given by no line.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count, too.")] = False,
    model: ModelOption = None,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the service would refuse and what is odd, as FILE:LINE: SENTENCE. Exit code 1 for what is refused."""
    files = Files.find(file, model, home, config)
    files = replace(files, tools=tools or files.tools, token_roles=token_roles or files.token_roles)
    problems = files.problems()
    refused = sum(not problem.warning for problem in problems)
    printer = Printer(as_json=as_json)
    if as_json:
        found = [
            {"file": one.file, "line": one.line, "sentence": one.sentence, "refused": not one.warning}
            for one in problems
        ]
        printer.json({"problems": found, "refused": bool(refused)})
    for problem in problems if not as_json else ():
        where = f"{problem.file}:{problem.line}" if problem.line else problem.file
        kind = "warning: " if problem.warning else ""
        printer.line(f"{where}: {kind}{problem.sentence}", "yellow" if problem.warning else "red")
    warned = len(problems) - refused
    if not as_json:
        verdict = "would be refused" if refused else "is accepted"
        typer.echo(f"{files.policy} {verdict}: {_count(refused, 'error')}, {_count(warned, 'warning')}", err=True)
    raise typer.Exit(1 if refused or (strict and warned) else 0)


@app.command("test")
def ask_expected(
    expectations: Annotated[Path, typer.Argument(help="YAML or CSV of expectations.")],
    policy: PolicyOption = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the policy what it is expected to answer; exit code 1 if it answers otherwise.

    Each expectation has subject, method, name, args, roles, expect (allow or deny) and perhaps rule, the number of
    the line that must decide.
    """
    files = Files.find(policy, model, home, config)
    wanted = policy_input.expectations(expectations, files.methods)
    from authz_service.workbench.expectations import failures

    book = files.load()
    failed = list(failures(book.policy, wanted))
    printer = Printer(as_json=as_json)
    if as_json:
        found = [
            {
                "line": one.expectation.line,
                "subject": one.expectation.subject,
                "method": one.expectation.method,
                "name": one.expectation.name,
                "expected": "allow" if one.expectation.allowed else "deny",
                "expected_rule": one.expectation.rule,
                **_ruling_json(one.ruling),
            }
            for one in failed
        ]
        printer.json({"expectations": len(wanted), "failed": found})
    for one in failed if not as_json else ():
        asked = one.expectation
        expected = "allow" if asked.allowed else "deny"
        if asked.rule is not None and not one.verdict_differs:
            expected += f" by line {asked.rule}" if asked.rule else " by no rule"
        what = f"{asked.subject} {asked.method} {asked.name}".rstrip()
        printer.line(
            f"{expectations}:{asked.line}: {what}: expected {expected}, got {_ruling(book, one.ruling)}", "red"
        )
    if not as_json:
        typer.echo(f"{_count(len(wanted), 'expectation')}, {len(failed)} not met", err=True)
    raise typer.Exit(1 if failed else 0)


@app.command()
def explain(
    subject: SubjectArgument,
    method: MethodArgument,
    name: NameArgument = "",
    args: ArgsOption = "{}",
    roles: RolesOption = "",
    policy: PolicyOption = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a call is allowed, by which rule and roles, and what would change that."""
    asked = policy_input.arguments(args), policy_input.role_names(roles)
    files = Files.find(policy, model, home, config)
    book = files.load()
    policy_input.hint(method, name, files.methods)
    from authz_service.workbench.explain import Question
    from authz_service.workbench.explain import explain as explain_call

    explanation = explain_call(book, Question(subject, method, name, *asked))
    printer = Printer(as_json=as_json)
    if as_json:
        printer.json(_explanation_json(book, explanation))
        return
    verdict = "allowed" if explanation.ruling.allowed else "denied"
    printer.line(f"{verdict}: {_reason(book, explanation)}", "bold green" if explanation.ruling.allowed else "bold red")
    for way in explanation.ways:
        printer.line(f"role: {_way(book, way)}")
    if not explanation.ways:
        printer.line("role: none")
    for trace in explanation.traces:
        printer.line(f"rule: {book.file}:{trace.rule.line}: {trace.rule.text}: {_says(trace)}")
    if not explanation.traces:
        printer.line(f"rule: none speaks of {method} {name} for {subject} or its roles".replace("  ", " "))
    for change in explanation.changes:
        printer.line(f"to turn it: {change}")


@app.command("who-can")
def who_can(
    method: MethodArgument,
    name: NameArgument = "",
    policy: PolicyOption = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the identities and roles that may do it, by which rules, roles and conditions."""
    files = Files.find(policy, model, home, config)
    book = _plain(files.load())
    policy_input.hint(method, name, files.methods)
    rows = []
    for subject in book.subjects():
        effect = book.effect(subject, method, name)
        if not effect.never:
            rules = [held for held in book.matching(subject, method, name) if held.rule.allows or held.rule.condition]
            lines = ", ".join(f"{book.file}:{held.rule.line}" for held in rules)
            rows.append((subject, str(effect), lines, ", ".join(dict.fromkeys(held.roles for held in rules))))
    _show(rows, ("subject", "allowed", "rules", "via"), as_json)


@app.command()
def can(
    subject: SubjectArgument,
    roles: RolesOption = "",
    policy: PolicyOption = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the rules that a subject has: methods, names, effects, conditions, and by which roles."""
    book = _plain(Files.find(policy, model, home, config).load())
    held = book.held(subject, policy_input.role_names(roles))
    rows = []
    for one in held:
        rule, denied = one.rule, book.overridden(one, held)
        overridden = f"line {denied}" if denied else ""
        rows.append((rule.method, rule.name, rule.eft, rule.cond, one.roles, str(rule.line), overridden))
    _show(rows, ("method", "name", "effect", "condition", "via", "line", "overridden by"), as_json)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="Policy file.")],
    new: Annotated[Path, typer.Argument(help="Policy file.")],
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit code 1 if anything changes.")] = False,
    model: ModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who gains and loses what.

    Asked are all subjects of both files about all their patterns of methods and names, and about what overlapping
    patterns have in common. Conditions are compared as text.
    """
    before, after = (_plain(Files.find(path, model, None, config).load()) for path in (old, new))
    from authz_service.workbench.diff import compare

    difference = compare(before, after)
    printer = Printer(as_json=as_json)
    if as_json:
        changes = [_change_json(change) for change in difference.changes]
        printer.json({"changes": changes, "overlaps_examined": difference.overlaps})
    elif difference.changes:
        columns = ("subject", "change", "method", "name", "before", "after", "old rules", "new rules", "except")
        printer.table(columns, [_change_row(change) for change in difference.changes])
    if not as_json:
        typer.echo(f"{_count(len(difference.changes), 'change')} from {old} to {new}", err=True)
        if not difference.overlaps:
            typer.echo("too many patterns: not everything that overlapping ones have in common was examined", err=True)
    raise typer.Exit(1 if exit_code and difference.changes else 0)


def _plain(book: "Book") -> "Book":
    """`book`, unless its model asks more of a rule than these commands read."""
    if book.extras:
        raise UserError(
            f"the model's matcher also asks {book.extras[0]}, which this command cannot list; ask about single calls "
            "with: secure-mcp-grpc policy explain"
        )
    return book


def _show(rows: Sequence[tuple[str, ...]], columns: tuple[str, ...], as_json: bool) -> None:
    printer = Printer(as_json=as_json)
    if as_json:
        printer.json([dict(zip((column.replace(" ", "_") for column in columns), row, strict=True)) for row in rows])
    elif rows:
        printer.table(columns, rows)
    else:
        typer.echo("nobody" if columns[0] == "subject" else "nothing", err=True)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _ruling(book: "Book", ruling: "Ruling") -> str:
    verdict = "allow" if ruling.allowed else "deny"
    return f"{verdict} by {book.file}:{ruling.line}: {ruling.rule}" if ruling.rule else f"{verdict}, no rule allows it"


def _ruling_json(ruling: "Ruling") -> dict[str, Any]:
    return {"verdict": "allow" if ruling.allowed else "deny", "rule": ruling.rule, "line": ruling.line}


def _reason(book: "Book", explanation: "Explanation") -> str:
    ruling = explanation.ruling
    return f"{book.file}:{ruling.line}: {ruling.rule}" if ruling.rule else "no rule allows it"


def _way(book: "Book", way: tuple[str, ...]) -> str:
    """`model-a → role:a (line 3) → role:b (given)`."""
    lines = book.grouping_lines(way)
    steps = [f"{role} ({f'line {line}' if line else 'given'})" for role, line in zip(way[1:], lines, strict=True)]
    return " → ".join([way[0], *steps])


def _says(trace: Any) -> str:
    """What a rule's condition came to; a deny counts where it cannot be evaluated."""
    if trace.outcome == "condition_failed":
        consequence = "it denies" if trace.counts else "it does not allow"
        return f"the condition cannot be evaluated: {trace.detail}; {consequence}"
    if trace.outcome == "condition_false":
        return "the condition is false"
    return "the condition is true" if trace.rule.condition else "matches"


def _explanation_json(book: "Book", explanation: "Explanation") -> dict[str, Any]:
    rules = [
        {
            "line": trace.rule.line,
            "rule": trace.rule.text,
            "effect": trace.rule.eft,
            "condition": trace.rule.cond,
            "outcome": trace.outcome,
            "detail": trace.detail,
            "counts": trace.counts,
            "via": list(trace.via),
        }
        for trace in explanation.traces
    ]
    ways = [{"role": way[-1], "via": list(way), "lines": book.grouping_lines(way)} for way in explanation.ways]
    return {**_ruling_json(explanation.ruling), "roles": ways, "rules": rules, "changes": list(explanation.changes)}


def _rules_at(rules: "list[Held] | tuple[Held, ...]") -> str:
    return ", ".join(str(held.rule.line) for held in rules)


def _change_row(change: "Change") -> tuple[str, ...]:
    return (
        change.subject,
        change.kind,
        change.method,
        change.name,
        str(change.before),
        str(change.after),
        _rules_at(change.old_rules),
        _rules_at(change.new_rules),
        ", ".join(" ".join(pair).strip() for pair in change.exceptions),
    )


def _change_json(change: "Change") -> dict[str, Any]:
    return {
        "subject": change.subject,
        "change": change.kind,
        "method": change.method,
        "name": change.name,
        "before": str(change.before),
        "after": str(change.after),
        "old_lines": [held.rule.line for held in change.old_rules],
        "new_lines": [held.rule.line for held in change.new_rules],
        "except": [list(pair) for pair in change.exceptions],
    }
