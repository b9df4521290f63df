"""Revocations: who and what counts no longer, whatever policy says; on every sidecar, and over every loss."""
