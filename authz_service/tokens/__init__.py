"""Tokens: who a bearer token speaks for. JWTs of several issuers, introspection, and other people's authenticators."""
