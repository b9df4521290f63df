"""How the dashboard looks: one colour per meaning, the same in every chart, and the options of Streamlit's theme.

The colours are Okabe and Ito's palette, which people with the common forms of
colour blindness tell apart; every chart also names the outcome in words.
"""

import unicodedata
from collections.abc import Mapping
from typing import Final

__all__ = ["OUTCOME_COLOURS", "STREAMLIT_OPTIONS", "neutral", "plain", "short", "translucent"]

OUTCOME_COLOURS: Final[Mapping[str, str]] = {
    "allowed": "#4C9FD1",
    "denied": "#D55E00",
    "limited": "#E69F00",
    "error": "#B5548F",
    "unavailable": "#6B7280",
    "cancelled": "#A8B0BA",
    "failed handshake": "#B5548F",
}

_NEUTRAL: Final = {"light": "#94A3B8", "dark": "#64748B"}

STREAMLIT_OPTIONS: Final[Mapping[str, str]] = {
    "STREAMLIT_THEME_BASE_RADIUS": "small",
    "STREAMLIT_THEME_BASE_FONT_SIZE": "15",
    "STREAMLIT_THEME_METRIC_VALUE_FONT_SIZE": "1.6rem",
    "STREAMLIT_THEME_HEADING_FONT_SIZES": "1.7rem, 1.25rem, 1.05rem, 1rem, 0.9rem, 0.85rem",
    "STREAMLIT_THEME_SHOW_SIDEBAR_BORDER": "true",
    "STREAMLIT_THEME_LIGHT_PRIMARY_COLOR": "#0B6AA8",
    "STREAMLIT_THEME_LIGHT_BACKGROUND_COLOR": "#FFFFFF",
    "STREAMLIT_THEME_LIGHT_SECONDARY_BACKGROUND_COLOR": "#F3F5F8",
    "STREAMLIT_THEME_LIGHT_TEXT_COLOR": "#1B2430",
    "STREAMLIT_THEME_DARK_PRIMARY_COLOR": "#56B4E9",
    "STREAMLIT_THEME_DARK_BACKGROUND_COLOR": "#12171E",
    "STREAMLIT_THEME_DARK_SECONDARY_BACKGROUND_COLOR": "#1C232D",
    "STREAMLIT_THEME_DARK_TEXT_COLOR": "#E4E9F0",
}

_MAX_LABEL_CHARS: Final = 36


def neutral(base: str) -> str:
    """Colour of things that have no outcome, on a `light` or `dark` page."""
    return _NEUTRAL.get(base, _NEUTRAL["light"])


def translucent(colour: str, alpha: float) -> str:
    """`#RRGGBB` as an rgba() colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def plain(text: str) -> str:
    """`text` so that Plotly, which reads a little HTML in labels, shows exactly its characters.

    Control and bidirectional characters are written as escapes: they could
    make one name look like another.
    """
    visible = "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )
    return visible.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(text: str) -> str:
    """`text`, cut in the middle where it is too long for a label; its end often tells two names apart."""
    if len(text) <= _MAX_LABEL_CHARS:
        return text
    half = (_MAX_LABEL_CHARS - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
