"""MCP servers of others, as the tests start them: which command, what a test asks, what each may call its own."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.tools import node_packages

PAGE = "<html><head><title>Weather</title></head><body><h1>Weather</h1><p>Sunny, <b>21</b> degrees.</p></body></html>"
ROBOTS = "User-agent: *\nDisallow: /private\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """One call: a method of the SDK's client and its arguments."""

    method: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class RealServer:
    name: str
    command: tuple[str, ...]
    asked: tuple[Asked, ...]
    env: dict[str, str] = field(default_factory=dict)


def tool(name: str, **arguments: Any) -> Asked:
    return Asked("call_tool", (name, arguments))


def python(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *words)


def node(package: str, *words: str) -> tuple[str, ...]:
    program = node_packages.modules() / "@modelcontextprotocol" / package / "dist" / "index.js"
    return (str(node_packages.NODE), str(program), *words)


def servers(directory: Path, repository: Path, website: str) -> list[RealServer]:
    """All six; what they keep is below `directory`, which `reset` fills."""
    files = directory / "files"
    note = str(files / "note.txt")
    repo = {"repo_path": str(repository)}
    entity = {"name": "Ada", "entityType": "person", "observations": ["likes größe", "wrote notes"]}
    return [
        RealServer(
            "time",
            python("mcp_server_time", "--local-timezone", "UTC"),
            (
                tool("convert_time", source_timezone="Europe/Berlin", time="12:00", target_timezone="Asia/Tokyo"),
                tool("convert_time", source_timezone="Nowhere/None", time="12:00", target_timezone="Asia/Tokyo"),
                tool("get_current_time", timezone="Nowhere/None"),
            ),
        ),
        RealServer(
            "git",
            python("mcp_server_git", "--repository", str(repository)),
            (
                tool("git_log", **repo, max_count=3),
                tool("git_show", **repo, revision="HEAD"),
                tool("git_branch", **repo, branch_type="local"),
                tool("git_status", **repo),
                tool("git_show", **repo, revision="no-such-revision"),
                tool("git_log", repo_path="/somewhere/else"),
            ),
        ),
        RealServer(
            "fetch",
            python("mcp_server_fetch", "--allow-private-ips"),
            (
                tool("fetch", url=f"{website}/page"),
                tool("fetch", url=f"{website}/page", raw=True),
                tool("fetch", url=f"{website}/page", raw=True, max_length=20),
                tool("fetch", url=f"{website}/private/page"),
                tool("fetch", url=f"{website}/missing"),
                tool("fetch", url="not a url"),
                Asked("get_prompt", ("fetch", {"url": f"{website}/plain"})),
            ),
        ),
        RealServer(
            "everything",
            node("server-everything", "stdio"),
            (
                tool("echo", message="größer 🙂 \u2028"),
                tool("get-sum", a=2, b=40),
                tool("get-tiny-image"),
                tool("get-structured-content", location="Chicago"),
                tool("get-annotated-message", messageType="error", includeImage=True),
                tool("get-resource-links", count=3),
                Asked("get_prompt", ("simple-prompt",)),
                Asked("get_prompt", ("args-prompt", {"city": "Bonn", "state": "NRW"})),
                Asked("read_resource", ("demo://resource/static/document/features.md",)),
            ),
        ),
        RealServer(
            "filesystem",
            node("server-filesystem", str(files)),
            (
                tool("list_allowed_directories"),
                tool("read_text_file", path=note),
                tool("read_text_file", path=note, head=1),
                tool("write_file", path=str(files / "new.txt"), content="new\n"),
                tool("edit_file", path=note, edits=[{"oldText": "two", "newText": "2"}]),
                tool("list_directory", path=str(files)),
                tool("directory_tree", path=str(files)),
                tool("search_files", path=str(files), pattern="**/*.json"),
                tool("read_text_file", path="/etc/hostname"),
            ),
        ),
        RealServer(
            "memory",
            node("server-memory"),
            (
                tool("create_entities", entities=[entity]),
                tool("add_observations", observations=[{"entityName": "Ada", "contents": ["has a cat"]}]),
                tool("create_relations", relations=[{"from": "Ada", "to": "Ada", "relationType": "knows"}]),
                tool("search_nodes", query="cat"),
                tool("open_nodes", names=["Ada"]),
                tool("add_observations", observations=[{"entityName": "Nobody", "contents": ["none"]}]),
                tool("read_graph"),
            ),
            env={"MEMORY_FILE_PATH": str(directory / "memory.jsonl")},
        ),
    ]


def reset(directory: Path) -> None:
    """Bring what the servers keep back to its beginning; the directories themselves stay."""
    files = directory / "files"
    (files / "sub").mkdir(parents=True, exist_ok=True)
    (files / "note.txt").write_text("one\ntwo\nthree — größer\n")
    (files / "sub" / "data.json").write_text('{"a": 1}\n')
    (files / "new.txt").unlink(missing_ok=True)
    (directory / "memory.jsonl").unlink(missing_ok=True)


class _Pages(BaseHTTPRequestHandler):
    PAGES = {
        "/robots.txt": ("text/plain", ROBOTS),
        "/page": ("text/html", PAGE),
        "/private/page": ("text/html", PAGE),
        "/plain": ("text/plain", "Just text."),
    }

    def do_GET(self) -> None:
        kind, body = self.PAGES.get(self.path, ("text/plain", ""))
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        return


@contextmanager
def website() -> Iterator[str]:
    """A site with a robots.txt, for `fetch`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
