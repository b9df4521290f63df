"""The fixtures of `dashboard_harness`, for every module here."""

from dashboard_harness import address, browser, real_store

__all__ = ["address", "browser", "real_store"]
