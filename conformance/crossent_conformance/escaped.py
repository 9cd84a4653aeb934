"""Texts from outside, of implementations and of files, as they are shown: on a terminal, in XML, in HTML."""

from __future__ import annotations

import unicodedata


def escaped(text: str) -> str:
    """The text, where what could steer a terminal, or stands in no XML, is as Python writes it in a string.

    That is control and format characters, lone surrogates and what Unicode has not assigned, but for tabs and ends of
    lines.
    """
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else repr(c)[1:-1] for c in text)
