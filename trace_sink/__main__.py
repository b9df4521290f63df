"""`python -m trace_sink`: the sink as a process."""

from secure_mcp_grpc import lifecycle
from trace_sink.service import run
from trace_sink.settings import SinkSettings

if __name__ == "__main__":
    lifecycle.main("sink", SinkSettings, run)
