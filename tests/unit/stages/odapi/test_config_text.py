"""What is left of a pipeline.config for a conversion."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.odapi import config_text

MODEL = "model { ssd { num_classes: 2 } }\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("train_config { a { } }\n", "\n"),
        ("train_config {\n a < >\n}\nx", "\n\n\nx"),
        ("train_input_reader: { } eval_input_reader < > eval_input_reader { }", "  "),
        (
            "eval_config { x: 1 use_moving_averages: true }",
            "eval_config { use_moving_averages: true } ",
        ),
        ("eval_config { x: 1 }", ""),
        ("graph_rewriter { quantization { } }", ""),
        ("of_a_fork { }", "of_a_fork { }"),
        ("train_config { a: \"}\" b: '{' # }\n}", "\n"),
        ("train_config { never ended", "train_config { never ended"),
        (MODEL + "train_config {\n never ended", MODEL + "\n"),
        ("} train_config { }", "} train_config { }"),
        ("train_config { a { b: 'C:\\data\\' } }\n" + MODEL, "\n" + MODEL),
        ("# note\nmodel { } # more", "\nmodel { } "),
    ],
)
def test_what_is_needed(text: str, left: str) -> None:
    assert config_text.needed(text) == left


@pytest.mark.parametrize(
    ("string", "left"),
    [
        (r"'C:\Users\x'", r"'C:\\Users\\x'"),
        (r"'C:\\Users'", r"'C:\\Users'"),
        (r"'it\'s'", r"'it\'s'"),
        (r"'C:\\data\\'", r"'C:\\data\\'"),
        (r"'C:\data\'", r"'C:\\data\\'"),
        ("'C:\\data\\'\n", "'C:\\\\data\\\\'\n"),
    ],
)
def test_backslashes(string: str, left: str) -> None:
    assert config_text.needed(f"model {{ name: {string} }}") == f"model {{ name: {left} }}"


def test_encodings() -> None:
    assert config_text.decode(b"\xef\xbb\xbfmodel { }") == "model { }"
    assert config_text.decode("model { name: 'é' }".encode()) == "model { name: 'é' }"
    assert config_text.decode(b"model { } # \xe9").strip() == "model { }"
    for data in (b"model { name: '\xe9' }", MODEL.encode("utf-16"), b"\xe9 \0"):
        with pytest.raises(UnicodeDecodeError):
            config_text.decode(data)


@given(st.text(alphabet="model{}<> :\"'#\\\nt"))
def test_lines_keep_their_numbers(text: str) -> None:
    text = f"train_config {{ {text}"
    assert config_text.needed(text).count("\n") == text.count("\n")


@pytest.mark.parametrize("odd", ['"\\', '"', "'\\", "{", "a {", "# ", 'a: "b\\"\n', "\\", "}"])
def test_time_grows_with_the_text(odd: str) -> None:
    """Not with its square, whatever it is made of: that would be minutes here."""
    text = odd * (200_000 // len(odd))
    start = time.process_time()
    config_text.needed(text)
    assert time.process_time() - start < 5
