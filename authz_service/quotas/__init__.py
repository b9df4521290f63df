"""Quotas: how many calls an identity, a tool, a user or a token may make in a sliding window."""
