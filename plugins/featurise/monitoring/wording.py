"""An alert as a mail, as a chat message, and as JSON. Words of others are shown as text, whatever is in them."""

import re
import unicodedata
from dataclasses import dataclass
from html import escape
from typing import Any

from extractor.core.redact import bounded, fit
from featurise.monitoring.alert import Alert

TITLE_BYTES, SENTENCE_BYTES = 150, 2_000
OVER = "over: "
_CHAT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""What Slack takes for a link or a mention, as Slack wants it written."""


@dataclass(frozen=True)
class Message:
    """An alert as it is sent: a line, plain text for chats, HTML for mails, and JSON for programs."""

    subject: str
    text: str
    html: str
    payload: dict[str, Any]


def message(alert: Alert, base: str, over: str | None = None) -> Message:
    """An alert, or with `over`, which says why, the word that it is over; `base` is Airflow's address."""
    title = plain(alert.title, TITLE_BYTES)
    subject = f"[featurise] {OVER if over is not None else ''}{title}"
    link = f"{base.rstrip('/')}/featurise/{alert.page}"
    rows = _over(alert, over) if over is not None else _open(alert)
    lines = [(name, [plain(sentence, SENTENCE_BYTES) for sentence in said]) for name, said in rows]
    return Message(
        subject=subject,
        text="\n".join([f"{subject} (#{alert.number})", *(f"{name}: {' '.join(said)}" for name, said in lines), link]),
        html=_html(title if over is None else OVER + title, lines, link, alert.number),
        payload={
            "text": "\n".join(
                [f"{subject}".translate(_CHAT), *(f"{n}: {' '.join(s)}".translate(_CHAT) for n, s in lines), link]
            ),
            "state": "open" if over is None else "over",
            "number": alert.number,
            "kind": alert.kind.value,
            "subject": plain(alert.subject, TITLE_BYTES),
            "title": title,
            "reasons": list(alert.reasons),
            "link": link,
            **{name.lower().replace(" ", "_"): said for name, said in lines},
            "images_waiting": alert.waiting,
        },
    )


def plain(text: str, longest: int) -> str:
    """Text of others in one line: no letter that breaks lines, turns the direction or is not shown, and no secret."""
    shown = "".join(_visible(letter) for letter in fit(text, longest))
    return bounded(re.sub(r"\s+", " ", shown).strip(), longest)


def _visible(letter: str) -> str:
    if letter.isspace():
        return " "
    if letter.isprintable() and unicodedata.category(letter) != "Cf":
        return letter
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"


def _open(alert: Alert) -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("What happened", alert.what),
        ("Images waiting", (f"{alert.waiting:,}",)),
        ("Done already", (alert.done,)),
        ("To do", (alert.todo,)),
    ]


def _over(alert: Alert, why: str) -> list[tuple[str, tuple[str, ...]]]:
    return [("It is over", (why,)), ("What had happened", alert.what), ("To do", ("Nothing more.",))]


def _html(title: str, lines: list[tuple[str, list[str]]], link: str, number: str) -> str:
    rows = "".join(
        f"<tr><th align=left valign=top>{escape(name)}</th><td>{'<br>'.join(map(escape, said))}</td></tr>"
        for name, said in lines
    )
    where = escape(link, quote=True)
    return (
        f"<html><body><h3>{escape(title)}</h3><table cellpadding=4>{rows}</table>"
        f'<p><a href="{where}">{where}</a></p><p>Alert {escape(number)} of Featurise.</p></body></html>'
    )
