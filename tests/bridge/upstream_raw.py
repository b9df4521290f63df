"""An MCP server that sends back the bytes of params as they came; standard library, and no JSON library in between."""

import sys

for line in sys.stdin.buffer:
    head, _, params = line.rstrip(b"\n").partition(b',"params":')
    id_ = head.partition(b'"id":')[2].partition(b",")[0]
    sys.stdout.buffer.write(b'{"jsonrpc":"2.0","id":' + id_ + b',"result":{"params":' + params[:-1] + b"}}\n")
    sys.stdout.buffer.flush()
