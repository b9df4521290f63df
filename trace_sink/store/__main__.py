"""`python -m trace_sink.store`: the embedded store as a process."""

from secure_mcp_grpc import lifecycle
from trace_sink.store.service import run
from trace_sink.store.settings import StoreSettings

if __name__ == "__main__":
    lifecycle.main("store", StoreSettings, run)
