"""`ciyuan inspect RUN --step N` and `--find TEXT`: what a run was trained on."""

from __future__ import annotations

from ciyuan.cli.streams import answer, answer_json, printable, say

MOST = 20
"""Examples and steps that are shown of more."""


def show_step(run: str, step: int, *, as_json: bool) -> None:
    from ciyuan.recipe.lookup import Lookup

    used = Lookup(run).step(step)
    if as_json:
        answer_json(used.as_dict())
        return
    if used.skipped:
        say(f"step {step} was read, and its update was skipped: nothing was learnt from it")
    if not used.vouched:
        say(f"warning: the ledger does not vouch for this: what step {step} was fed had another mark")
    for example in used.examples:
        answer(f"{example.number}\t{_as_line(example.texts)}")


def show_found(run: str, text: str, *, as_json: bool) -> None:
    from ciyuan.recipe.lookup import Lookup

    lookup = Lookup(run)
    found = lookup.find(text)
    steps = sorted({step for one in found for step in one.steps})
    vouched = lookup.vouched(steps[:MOST])
    if as_json:
        answer_json({"trained_on": bool(steps), "vouched": vouched, "examples": [one.as_dict() for one in found]})
        return
    if not found:
        answer("no: no training example holds this text (each is searched by itself, as it was cut)")
        return
    if not steps:
        answer(f"no: {len(found):,} training examples hold this text, and no step of the run has used one of them yet")
        return
    answer(
        f"yes: {len(found):,} training examples hold this text; steps used them {sum(len(one.steps) for one in found):,} times"
    )
    if not vouched:
        say("warning: the ledger does not vouch for these steps: they were fed something else")
    for one in found[:MOST]:
        shown = ", ".join(map(str, one.steps[:MOST])) + (", …" if len(one.steps) > MOST else "")
        answer(f"{one.number}\tsteps {shown or 'none yet'}\t{_as_line(one.texts)}")
    if len(found) > MOST:
        answer(f"… and {len(found) - MOST:,} more; --json gives all")


def _as_line(texts: tuple[str, ...]) -> str:
    return "\t".join(printable(text) for text in texts)
