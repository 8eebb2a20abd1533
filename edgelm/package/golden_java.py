"""Golden vectors as the Java class that compares them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from edgelm.package import templates
from edgelm.package.golden import Golden
from edgelm.package.subject import Subject

_TABLE_INDENT = " " * 4

_IDS_CHECK = """\
for (int i = 0; i < TEXTS.length; i++) {
    int[] ids = model.encode(TEXTS[i]);
    if (!Arrays.equals(ids, IDS[i])) {
        throw new AssertionError(
                "token ids of \\"" + TEXTS[i] + "\\" are " + Arrays.toString(ids) + ", in Python " + Arrays.toString(IDS[i]));
    }
    compared++;
}"""

_CHOICES_CHECK = """\
for (int i = 0; i < PROMPTS.length; i++) {
    compared += compareChoices(model, PROMPTS[i], CHOICES[i]);
}"""

_SESSION_GREEDY = """\
private static int compareChoices(@CLASS@ model, int[] prompt, int[] choices) {
    model.reset();
    FloatBuffer logits = model.prefill(prompt);
    for (int i = 0; i < choices.length; i++) {
        expect(best(logits), choices[i], prompt, i);
        if (i + 1 < choices.length) {
            logits = model.step(choices[i]);
        }
    }
    return choices.length;
}"""

_GRAPH_GREEDY = """\
private static int compareChoices(@CLASS@ model, int[] prompt, int[] choices) {
    for (int i = 0; i < choices.length; i++) {
        int[] tokens = Arrays.copyOf(prompt, prompt.length + i);
        System.arraycopy(choices, 0, tokens, prompt.length, i);
        expect(best(model.next(tokens)), choices[i], prompt, i);
    }
    return choices.length;
}"""

_EXPECT = """\
private static void expect(int met, int python, int[] prompt, int step) {
    if (met != python) {
        throw new AssertionError("after " + Arrays.toString(prompt) + " token " + step + " is " + met + ", in Python " + python);
    }
}"""


def java(subject: Subject, golden: Golden) -> bytes:
    """Source of the class `...Golden`.

    Args:
        subject: What is packaged.
        golden: Its vectors.
    """
    greedy = _GRAPH_GREEDY if subject.family == "graph" else _SESSION_GREEDY
    methods = f"{greedy.replace('@CLASS@', subject.class_name)}\n\n{_EXPECT}"
    checks = ["int compared = 0;", *([_IDS_CHECK] if golden.encoded else []), _CHOICES_CHECK, "return compared;"]
    values = subject.values() | {
        "GOLDEN_RUNTIME": templates.comment(golden.runtime),
        "TABLES": textwrap.indent("\n\n".join(_tables(golden)), _TABLE_INDENT),
        "CHECKS": textwrap.indent("\n".join(checks), " " * 8),
        "GREEDY": textwrap.indent(methods, _TABLE_INDENT),
    }
    return templates.fill("android/Golden.java", values)


def _tables(golden: Golden) -> Iterable[str]:
    if golden.encoded:
        yield _table("String[] TEXTS", (templates.string_literal(each.text) for each in golden.encoded))
        yield _table("int[][] IDS", (_ids(each.ids) for each in golden.encoded))
    yield _table("int[][] PROMPTS", (_ids(each.prompt) for each in golden.continuations))
    yield _table("int[][] CHOICES", (_ids(each.choices) for each in golden.continuations))


def _table(declaration: str, rows: Iterable[str]) -> str:
    return f"private static final {declaration} = {{\n" + "".join(f"    {row},\n" for row in rows) + "};"


def _ids(ids: tuple[int, ...]) -> str:
    return "{" + ", ".join(map(str, ids)) + "}"
