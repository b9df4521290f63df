"""Tools for the owner of a policy: what it means, what a change would do. Pure; the engine is `authz_service.policy`.

The command line (`secure-mcp-grpc policy`) stands on the other side; nothing
here reads files, sockets or clocks.
"""
