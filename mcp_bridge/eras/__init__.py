"""Any era to any era: an upstream that lets callers of 2026-07-28 reach handshake servers, and the other way round.

`bridged.Bridged` stands between the executor (or the router) and one
upstream. Where server and caller speak the same era it passes everything on
untouched.
"""
