"""What is masked in text that people read, and what is not."""

import json

import pytest

from extractor.core import storage
from extractor.core.exit_codes import StorageError, Summary
from extractor.core.manifest import Reject, RejectReason
from extractor.core.redact import LONGEST, bounded, fit, redacted
from extractor.log import configure, log

HIDDEN = {
    "a password": ("postgresql+psycopg://me:hunter22@db:5432/x", "postgresql+psycopg://me:***@db:5432/x"),
    "a password with an at sign": ("http://me:p@ss/w@store:9000/b", "http://me:***@store:9000/b"),
    "a token alone": ("https://ghp_abcdef@host/x", "https://***@host/x"),
    "an option": (
        "postgresql://db/x?sslpassword=abc&sslmode=require",
        "postgresql://db/x?sslpassword=***&sslmode=require",
    ),
    "an option that nobody knows": ("postgresql://db/x?foo=abc", "postgresql://db/x?foo=***"),
    "a signature": ("GET https://s/b/k?X-Amz-Signature=0a1b failed", "GET https://s/b/k?X-Amz-Signature=*** failed"),
    "two in a line": ("from http://a:bc@h/1 to http://d:ef@h/2", "from http://a:***@h/1 to http://d:***@h/2"),
    "in quotes": ('endpoint URL: "http://u:pw@h/b"', 'endpoint URL: "http://u:***@h/b"'),
}
SHOWN = [
    "s3://bucket/a?b=c/d@2x.jpg",
    "s3://bucket/user:name@place.jpg",
    "sqlite:////srv/a@b/registry.db",
    "http://127.0.0.1:8333/bucket/key",
    "postgresql+psycopg://db/x?host=/run&port=5433",
    "mail me@example.org, or see key=value",
]


@pytest.mark.parametrize("name", HIDDEN)
def test_an_address_loses_what_nobody_may_read(name: str):
    text, expected = HIDDEN[name]
    assert redacted(text) == expected


@pytest.mark.parametrize("text", SHOWN)
def test_what_is_no_secret_stays(text: str):
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI", "wJalrXUtnFEMI"),
        ("AWS_SESSION_TOKEN", "IQoJb3JpZ2lu", "IQoJb3JpZ2lu"),
        ("FEATURISE_REGISTRY", "postgresql://me:open%20sesame@db/x", "open sesame"),
        ("FEATURISE_REGISTRY", "postgresql://me@db/x?sslpassword=open-sesame", "open-sesame"),
        ("AWS_ENDPOINT_URL", "http://me:open-sesame@store", "open-sesame"),
    ],
)
def test_a_secret_of_the_environment_is_masked_in_anybody_s_words(monkeypatch, name: str, value: str, secret: str):
    assert redacted(f"invalid value {secret!r} for something") == f"invalid value {secret!r} for something"
    monkeypatch.setenv(name, value)
    assert redacted(f"invalid value {secret!r} for something") == "invalid value '***' for something"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
        ("DB_PASSWORD", "abc"),
        ("FEATURISE_REGISTRY", "postgresql://featurise:featurise@db/featurise"),
        ("RESNET101_SHA256", "0123456789abcdef"),
    ],
)
def test_names_of_places_short_words_and_what_is_shown_anyway_are_not(monkeypatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    text = "featurise of abc below /var/run/token has 0123456789abcdef"
    assert redacted(text) == text


def test_every_error_of_ours_is_fit_to_be_shown():
    assert str(StorageError("no answer from http://me:open-sesame@store")) == "no answer from http://me:***@store"
    left = Summary(exit_code=25, reason="storage", message="http://me:open-sesame@store is down")
    assert "sesame" not in left.model_dump_json()


def test_every_line_of_the_log_is(monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "open-sesame")
    configure()
    try:
        raise ValueError("signed with open-sesame")
    except ValueError:
        log.error(
            "failed at http://me:pw@store",
            key="s3://b/k",
            secret="open-sesame",
            nested={"a": ["open-sesame"]},
            exc_info=True,
        )
    said = capsys.readouterr().out
    assert "sesame" not in said
    assert json.loads(said)["event"] == "failed at http://me:***@store"
    assert json.loads(said)["key"] == "s3://b/k"


@pytest.mark.parametrize("endpoint", ["http://me:open-sesame@127.0.0.1:9", "http://me:open sesame@[::1/"])
def test_credentials_inside_the_endpoint_s_address_are_not_told(monkeypatch, endpoint: str):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    storage.client.cache_clear()
    try:
        with pytest.raises(StorageError, match="check AWS_ENDPOINT_URL") as error:
            storage.read_bytes("s3://bucket/key")
        assert "sesame" not in str(error.value)
    finally:
        storage.client.cache_clear()


@pytest.mark.parametrize("odd", ["a\0b", "a\ud83db", "\N{EURO SIGN}" * 20_000, "x" * 2_000_000])
def test_what_is_kept_can_be_kept(odd: str):
    kept = fit(odd)
    assert len(kept.encode()) <= LONGEST
    assert "\0" not in kept
    line = Reject(image_id="a", key="a", etag="a", size=1, reason=RejectReason.UNREADABLE, detail=odd).model_dump_json()
    assert len(line.encode()) < 2 * LONGEST


def test_of_a_long_text_the_beginning_and_the_end_are_kept():
    text = bounded("begin " + "\N{EURO SIGN}" * 10_000 + " end", 1000)
    assert text.startswith("begin €")
    assert text.endswith("€ end")
    assert "30,010 bytes" in text
    assert len(text.encode()) <= 1000


def test_no_half_of_a_secret_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_PASSWORD", "hunter22" * 100)
    for before in range(0, 900, 100):
        assert "hunter22" not in fit("x" * before + "hunter22" * 100 + "y" * 2_000, 1000)


def test_a_log_line_may_hold_anything(capsys: pytest.CaptureFixture[str]):
    configure()
    log.warning("rejected", key="a\ud83d.jpg", detail=["\0" * 50_000])
    assert len(capsys.readouterr().out.encode()) < 3 * LONGEST  # escapes are longer than what they stand for
