"""How the dashboard looks: one colour per meaning, the same in every chart, and the options of Streamlit's theme.

The colours are Okabe and Ito's palette, which people with the common forms of
colour blindness tell apart; every chart also names the outcome in words.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["OUTCOME_COLOURS", "STREAMLIT_OPTIONS", "ink", "neutral", "plain", "short", "translucent"]

OUTCOME_COLOURS: Final[Mapping[str, str]] = {
    "allowed": "#4C9FD1",
    "denied": "#D55E00",
    "limited": "#E69F00",
    "error": "#B5548F",
    "unavailable": "#6B7280",
    "public": "#94A3B8",
    "cancelled": "#A8B0BA",
    "failed handshake": "#B5548F",
}

_NEUTRAL: Final = {"light": "#94A3B8", "dark": "#64748B"}
_INK: Final = {"light": "#1B2430", "dark": "#E4E9F0"}

STREAMLIT_OPTIONS: Final[Mapping[str, str | int | bool | list[str]]] = {
    "theme.baseRadius": "small",
    "theme.baseFontSize": 15,
    "theme.metricValueFontSize": "1.6rem",
    "theme.headingFontSizes": ["1.7rem", "1.25rem", "1.05rem", "1rem", "0.9rem", "0.85rem"],
    "theme.showSidebarBorder": True,
    "theme.paddingTop": "2.5rem",
    "theme.light.primaryColor": "#0B6AA8",
    "theme.light.backgroundColor": "#FFFFFF",
    "theme.light.secondaryBackgroundColor": "#F3F5F8",
    "theme.light.textColor": "#1B2430",
    "theme.dark.primaryColor": "#56B4E9",
    "theme.dark.backgroundColor": "#12171E",
    "theme.dark.secondaryBackgroundColor": "#1C232D",
    "theme.dark.textColor": "#E4E9F0",
}

_MAX_LABEL_CHARS: Final = 36


def neutral(base: str) -> str:
    """Colour of things that have no outcome, on a `light` or `dark` page."""
    return _NEUTRAL.get(base, _NEUTRAL["light"])


def ink(base: str) -> str:
    """Colour of labels on a `light` or `dark` page."""
    return _INK.get(base, _INK["light"])


def translucent(colour: str, alpha: float) -> str:
    """`#RRGGBB` as an rgba() colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def plain(text: str) -> str:
    """`text` so that Plotly, which reads a little HTML in labels, shows exactly its characters.

    Control, bidirectional and other unprintable characters are written as escapes: they could
    make one name look like another.
    """
    visible = "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )
    return visible.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(text: str) -> str:
    """`text`, cut in the middle where it is too long for a label; its end often tells two names apart."""
    if len(text) <= _MAX_LABEL_CHARS:
        return text
    half = (_MAX_LABEL_CHARS - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
