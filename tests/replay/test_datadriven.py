from __future__ import annotations

import pytest

from tests.replay.datadriven import Argument, Directive, TranscriptError, parse, parse_directive


def only(text: str) -> Directive:
    (directive,) = parse(text)
    return directive


# ---- directives ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("c", ()),
        ("  c  ", ()),
        ("c a", (Argument("a"),)),
        ("c   a    b", (Argument("a"), Argument("b"))),
        ("c a=", (Argument("a", ("",)),)),
        ("c a= b", (Argument("a", ("",)), Argument("b"))),
        ("c a=1", (Argument("a", ("1",)),)),
        ("c a=1=2", (Argument("a", ("1=2",)),)),
        ("c a=1)(,", (Argument("a", ("1)(,",)),)),
        ("c a=()", (Argument("a", ("",)),)),
        ("c a=(1)", (Argument("a", ("1",)),)),
        ("c a=(1,2)", (Argument("a", ("1", "2")),)),
        ("c a=(1,   2)", (Argument("a", ("1", "2")),)),
        ("c a=(1 ,2 )", (Argument("a", ("1 ", "2 ")),)),
        ("c a=( 1,)", (Argument("a", (" 1", "")),)),
        ("c a=(f(1,2), (3))", (Argument("a", ("f(1,2)", "(3)")),)),
        ("c a=(1)b", (Argument("a", ("1",)), Argument("b"))),
        ("c a=(x=1,y)", (Argument("a", ("x=1", "y")),)),
        ('c "quoted"', (Argument('"quoted"'),)),
    ],
)
def test_arguments_are_split_at_spaces_and_lists_at_outer_commas(
    text: str, arguments: tuple[Argument, ...]
) -> None:
    assert parse_directive(text) == ("c", arguments)


@pytest.mark.parametrize("text", ["c =1", "c a=(1", "c a=((1)", "c a =1", "c a=(1,"])
def test_an_argument_without_a_key_or_an_end_is_refused(text: str) -> None:
    with pytest.raises(TranscriptError, match="cannot parse directive at column"):
        parse_directive(text)


def test_a_malformed_directive_is_refused_with_its_line() -> None:
    with pytest.raises(TranscriptError, match=r"^line 3: cannot parse directive at column 5: c "):
        parse("# A comment.\n\nc a=(1\n----\n")


def test_a_directive_goes_on_after_a_backslash() -> None:
    directive = only("c a\\\n   b=1 \\\n  c\ninput\n----\noutput\n")
    assert directive.arguments == (Argument("a"), Argument("b", ("1",)), Argument("c"))
    assert directive.line == 3
    assert directive.input == "input"


# ---- input and output ------------------------------------------------------------------------


def test_input_and_output_belong_to_the_directive_above() -> None:
    first, second = parse("one\n\n# Not a comment.\n x \n\n----\n  out\nput\n\n\ntwo\n----\n")
    assert first == Directive(1, "one", "one", (), "# Not a comment.\n x", "  out\nput\n")
    assert second == Directive(11, "two", "two", (), "", "")


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n  \t\nc\n----\n"])
def test_output_ends_at_a_blank_line_or_with_the_file(end: str) -> None:
    assert parse(f"c\n----\nout{end}")[0].expected == "out\n"


def test_a_separator_stands_alone_in_its_line() -> None:
    assert only("c\n ----\n-----\n----\nout").input == "----\n-----"


def test_a_separator_within_output_is_output() -> None:
    assert only("c\n----\nout\n----\nput\n").expected == "out\n----\nput\n"


def test_doubled_separators_bracket_output_with_blank_lines() -> None:
    first, second = parse("c\n----\n----\na\n\n----\nb\n----\n----\n\nd\n----\n")
    assert first.expected == "a\n\n----\nb\n"
    assert second.command == "d"


def test_a_single_separator_may_end_a_file_within_doubled_ones() -> None:
    assert only("c\n----\n----\na\n----").expected == "a\n----\n"


def test_text_after_doubled_separators_is_refused() -> None:
    with pytest.raises(TranscriptError, match="line 6: a line that is not blank"):
        parse("c\n----\n----\n----\n----\nd\n----\n")


def test_a_file_that_ends_before_the_separator_expects_nothing() -> None:
    directive = only("c\ninput\n")
    assert (directive.input, directive.expected) == ("input", None)


def test_line_breaks_of_either_kind_are_read() -> None:
    assert only("c\r\ninput\r\n----\r\nout\r\n\r\n") == only("c\ninput\n----\nout\n\n")


@pytest.mark.parametrize("text", ["", "\n \n", "# Only a comment."])
def test_a_file_may_have_no_directive(text: str) -> None:
    assert parse(text) == []


# ---- subtests --------------------------------------------------------------------------------


def test_subtests_bracket_directives_and_are_none() -> None:
    text = "subtest a\n\nc\n----\n\nsubtest a/b\n\nsubtest end a/b\nsubtest end\nd\n----\n"
    assert [directive.command for directive in parse(text)] == ["c", "d"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\nsubtest a", "line 2: the subtest a has no end"),
        ("subtest end", "line 1: the end of a subtest that has no start"),
        ("subtest a\nsubtest end b", "line 2: the end of the subtest a names another one"),
        ("subtest a\nsubtest b", "line 2: a subtest within a starts with that name"),
        ("subtest", "line 1: a subtest has one name"),
        ("subtest a b", "line 1: a subtest has one name"),
    ],
)
def test_a_subtest_that_is_not_well_nested_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(TranscriptError, match=complaint):
        parse(text)
