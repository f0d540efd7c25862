"""YAML with source locations: what is read as written, what is refused, and where."""

from __future__ import annotations

import json
import math
import time

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchgen.errors import CommandError, ManifestInvalid, SourceLocation
from batchgen.source import document, encoding


def value_of(text):
    return document.parse(text, "f.yaml").value


def fault_of(text):
    with pytest.raises(ManifestInvalid) as caught:
        document.parse(text, "f.yaml")
    return caught.value.problems


@pytest.mark.parametrize("ratio", ["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "1:1.91"])
def test_an_unquoted_ratio_is_a_text_alone_in_a_flow_list_and_as_a_key(ratio):
    assert value_of(f"a: {ratio}\nb: [{ratio}, {ratio}]\n{ratio}: c\n") == {"a": ratio, "b": [ratio] * 2, ratio: "c"}


@pytest.mark.parametrize(
    "word", ["no", "off", "yes", "on", "y", "N", "2026-01-01", "1_000", "0b11", ".nan", ".inf", "-.INF"]
)
def test_a_word_that_yaml_1_1_would_change_is_a_text(word):
    assert value_of(f"[{word}]") == [word]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("7", 7), ("-7", -7), ("+7", 7), ("010", 10), ("0o10", 8), ("0x1F", 31), ("1.50", 1.5), ("1e3", 1000.0),
        (".5", 0.5), ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
    ],
)  # fmt: skip
def test_a_plain_scalar_has_its_value_and_keeps_its_text(written, value):
    found = document.parse(f"a: {written}\n", "f")
    assert found.value == {"a": value}
    assert type(found.value["a"]) is type(value)
    assert found.written(["a"]) == written


def test_a_number_beyond_all_bounds_stays_a_text():
    for text in ("1e999", "9" * 5000):
        assert value_of(f"[{text}]") == [text]


def test_keys_are_the_texts_that_were_written():
    assert value_of("1: a\n1.0: b\nnull: c\ntrue: d\n") == {"1": "a", "1.0": "b", "null": "c", "true": "d"}


def test_places_are_those_of_values_and_keys():
    found = document.parse("a: 1\nbb:\n  - x\n  - {c: [1, 2], d: é}\n", "f")
    assert found.place(["bb", 1, "c", 1]) == SourceLocation(file="f", line=4, column=13)
    assert found.place(["bb", 1, "d"], key=True) == SourceLocation(file="f", line=4, column=17)
    assert found.place(["bb"], key=True) == SourceLocation(file="f", line=2, column=1)
    assert found.place(["bb", 7, "x"]) == SourceLocation(file="f", line=3, column=3)  # the nearest that is there
    assert found.line(4) == "  - {c: [1, 2], d: é}"


def test_an_alias_stands_where_it_is_written_and_its_parts_where_its_anchor_is():
    found = document.parse("a: &x [1.50, {k: v}]\nb: *x\n", "f")
    assert found.value["b"] == [1.5, {"k": "v"}]
    assert found.place(["b"]).line == 2
    assert str(found.place(["b", 1, "k"])) == "f:1:18"
    assert found.written(["b", 0]) == "1.50"


def test_an_alias_of_a_number_keeps_the_text_at_its_anchor():
    found = document.parse("a: &x 1.50\nb: *x\n*x : c\n", "f")
    assert found.value == {"a": 1.5, "b": 1.5, "1.50": "c"}
    assert found.written(["b"]) == "1.50"
    assert str(found.place(["b"])) == "f:2:4"
    assert str(found.place(["1.50"], key=True)) == "f:3:1"


def test_a_byte_order_mark_shifts_no_column(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    found = document.read(file, "f")
    assert found.value == {"a": 1, "b": "x"}
    assert str(found.place(["a"], key=True)) == "f:1:1"


def test_every_error_that_leaves_a_document_is_reported_in_one_pass():
    said = [str(problem) for problem in fault_of("a: 1\na: 2\nb: !!set {x}\nc: &c {y: 1}\nd:\n  <<: *c\n  y: 2\n")]
    assert [text[:9] for text in said] == ["f.yaml:2:", "f.yaml:3:", "f.yaml:6:"]
    assert "see also f.yaml:1:1" in said[0]


def test_what_stands_after_a_key_given_twice_keeps_its_place():
    found, problems = document.collect("a: {x: 1, x: [1, 2, {y: &n 3}], z: 4}\nb: *n\nc: 5\n", "f")
    assert len(problems) == 1
    assert found.value == {"a": {"x": 1, "z": 4}, "b": 3, "c": 5}
    assert str(found.place(["a", "z"])) == "f:1:36"
    assert str(found.place(["c"])) == "f:3:4"
    assert found.place(["b", 0]).line == 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 50_000,
        "- " * 50_000,
        "a: &a [*a]",
        "? " * 10_000,
        "'" * 99_999,
        "!!a " * 1000,
        "&a " * 1000,
    ],
)
def test_hostile_text_is_refused_soon(text):
    began = time.monotonic()
    assert fault_of(text)
    assert time.monotonic() - began < 5


def test_a_bomb_is_refused_by_its_expanded_size():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    assert "stand for more than" in fault_of("\n".join(lines))[0].message


def test_bytes_that_are_no_utf8_are_refused_with_their_place():
    with pytest.raises(ManifestInvalid, match=r"f:2:3: The byte 0xff is not UTF-8"):
        encoding.decode("é\nöä".encode() + b"\xff", "f")


@pytest.mark.parametrize("codec", ["utf-16", "utf-32", "utf-16-le"])
def test_other_encodings_are_refused(codec):
    with pytest.raises(ManifestInvalid):
        document.parse(encoding.decode("a: é\n".encode(codec), "f"), "f")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CommandError, match=r"nowhere\.yaml does not exist"):
        document.read(tmp_path / "nowhere.yaml", "nowhere.yaml")


def test_prompts_by_the_ten_thousand_are_read_faster_than_by_yaml_itself():
    text = "".join(
        f"- id: p{i}\n  text: {'misty harbour at dawn ' * 4}\n  tags: [a, b]\n  n: {i}\n" for i in range(10_000)
    )

    def best_of_three(read):
        times = []
        for _ in range(3):
            began = time.process_time()  # other processes do not count
            read()
            times.append(time.process_time() - began)
        return min(times)

    ours = best_of_three(lambda: document.parse(text, "f"))
    theirs = best_of_three(lambda: yaml.load(text, Loader=yaml.CSafeLoader))
    assert ours < theirs


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u2028\u2029\ufffe\uffff")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcXYZ<é", min_size=1), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def steps_of(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in children:
        yield from steps_of(child, (*path, step))


@given(plain)
@settings(max_examples=300, deadline=None)
def test_json_reads_as_itself_and_every_part_has_its_place(value):
    text = json.dumps(value, ensure_ascii=False, indent=1)
    found = document.parse(text, "f")
    assert found.value == value
    lines = text.split("\n")
    for path in steps_of(value):
        place = found.place(path)
        part = value
        for step in path:
            part = part[step]
        first = json.dumps(part, ensure_ascii=False, indent=1).split("\n")[0]
        assert lines[place.line - 1][place.column - 1 :].startswith(first)


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@`#?,~ \n\t0179.<\\x"), max_size=60) | st.text(max_size=60))
@example("a: !<tag:yaml.org,2002:str> 1")
@example("%YAML 2.0\n---\na")
@example("- ? a\n  : b\n- *x")
@settings(max_examples=1000, deadline=None)
def test_any_text_is_read_or_refused(text):
    try:
        found, problems = document.collect(text, "f")
    except ManifestInvalid:
        return
    assert all(problem.place.line for problem in problems)
    for path in steps_of(found.value):
        assert found.place(path).line >= 1
        part = found.value
        for step in path:
            part = part[step]
        assert not isinstance(part, float) or math.isfinite(part)
