"""Decisions on what Envoy does not show one by one: frames of a pipelined session, and streams that stay open."""
