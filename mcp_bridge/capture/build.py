"""From settings to what the recorder uses."""

from mcp_bridge.capture.capture import Capture
from mcp_bridge.capture.keyed import load_key
from mcp_bridge.capture.sanitize import Sanitizer
from mcp_bridge.capture.settings import CaptureSettings

__all__ = ["build_capture"]


def build_capture(settings: CaptureSettings) -> Capture:
    """What the settings ask for; raises `UserError` for files that cannot be used."""
    sealer = None
    if settings.capture_public_key_file is not None:
        from mcp_bridge.capture.sealing import Sealer, load_public_key  # loads much of cryptography

        sealer = Sealer(load_public_key(settings.capture_public_key_file))
    return Capture(
        Sanitizer(settings.rules(), load_key(settings.capture_key_file)),
        mode=settings.capture,
        max_argument_bytes=settings.max_argument_bytes,
        max_bytes=settings.capture_max_bytes,
        sample=settings.capture_sample,
        off=settings.capture_off,
        sealer=sealer,
    )
