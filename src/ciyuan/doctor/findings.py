"""What can be wrong with data, as a table; and what was found, counted by kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Training on it is wrong · it probably hurts · worth knowing."""

Both = tuple[str, str]
"""The same in English and in Chinese."""

MOST_KEPT = 20_000
"""Places of one kind that are remembered while examples are read, so that memory is bounded; all are counted."""
MOST_PLACES = 1000
"""Places of one kind that are reported."""
SHOWN = 160
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Kind:
    """One way in which data can be wrong. cure: what `--fix` does about it, where that is safe."""

    severity: Severity
    title: Both
    advice: Both
    cure: Literal["drop", "mend"] | None = None


KINDS: Mapping[str, Kind] = {
    # What cannot be read
    "unreadable": Kind("error", ("cannot be read", "无法读取"), (
        "training refuses the file: mend these lines, or let --fix drop them",
        "训练会拒绝该文件：请修正这些行，或用 --fix 删除"), "drop"),
    "unparallel": Kind("error", ("files are not parallel", "两个文件行数不同"), (
        "find the missing or doubled line; the pairs after it are wrong", "找出缺失或多出的行；其后的句对都是错的")),
    # What is not text
    "mojibake": Kind("warning", ("wrongly decoded text (mojibake)", "乱码（错误解码）"), (
        "decode the original again, in its own encoding", "用原来的编码重新解码"), "mend"),
    "lost-characters": Kind("warning", ("characters lost in a conversion", "转换中丢失的字符"), (
        "take the text from its source again; what is lost cannot be guessed", "请从来源重新获取；丢失的字符无法还原")),
    "byte-order-mark": Kind("note", ("a byte order mark", "字节顺序标记（BOM）"), (
        "at the start it is passed over; within a text --fix removes it", "文件开头的会被忽略；文本中间的由 --fix 删除"), "mend"),
    "control": Kind("warning", ("control characters", "控制字符"), ("--fix removes them", "--fix 会删除"), "mend"),
    "invisible": Kind("warning", ("invisible characters", "不可见字符"), (
        "zero-width and direction marks split words unseen; --fix removes them",
        "零宽字符和方向标记会暗中切开词语；--fix 会删除"), "mend"),
    "line-ends": Kind("warning", ("line ends of two kinds", "换行符不一致"), (
        "harmless to training, a trap for other tools; --fix writes one kind",
        "不影响训练，但其他工具会出错；--fix 会统一"), "mend"),
    "decomposed": Kind("note", ("letters in several code points (not NFC)", "未规范化的字符（非 NFC）"), (
        "the same word spelt in two ways; --fix composes them", "同一个词有两种编码；--fix 会合成"), "mend"),
    "spacing": Kind("note", ("spaces around the text, or odd ones in it", "首尾空白或异常空格"), (
        "--fix trims them and writes plain spaces", "--fix 会去除并改为普通空格"), "mend"),
    # What is text of the wrong kind
    "empty": Kind("warning", ("nothing where a text should be", "内容为空"), (
        "dropped before training; --fix drops them too", "训练前会丢弃；--fix 也会删除"), "drop"),
    "void": Kind("warning", ("a missing value spelt out", "把缺失值写成了文字"), (
        "null, N/A … was exported as text: leave such examples out", "null、N/A 等被当作文本导出：请去掉这些样本")),
    "html": Kind("warning", ("remains of HTML", "残留的 HTML"), (
        "strip the markup where the text was taken from", "请在取得文本时去除标记")),
    "escapes": Kind("warning", ("escapes instead of characters", "残留的转义序列"), (
        "decode \\u…, \\x… and %… where the text was exported", "导出时请解码 \\u…、\\x… 和 %…")),
    "repetition": Kind("warning", ("the same words again and again", "同一内容反复出现"), (
        "a model learns to loop from these: leave them out", "模型会因此学会循环输出：请去掉")),
    "homoglyphs": Kind("warning", ("a word of two alphabets", "一个词混用两种字母"), (
        "Cyrillic letters that look Latin, or the reverse: write one alphabet", "形似拉丁字母的西里尔字母（或相反）：请统一")),
    "width": Kind("note", ("full-width letters or digits", "全角字母或数字"), (
        "the same word becomes other tokens; --fix writes them half-width", "同一个词会变成不同的词元；--fix 会改为半角"), "mend"),
    "punctuation": Kind("note", ("half-width punctuation between Chinese characters", "中文之间的半角标点"), (
        "the model learns both; write ，；：？！ throughout", "模型两种都会学到；请统一为 ，；：？！")),
    "chinese-script": Kind("warning", ("the other Chinese script", "简体与繁体混用"), (
        "most of the column is in one script: convert these, or leave them out", "该列多为另一种字形：请转换或去掉")),
    # What is not a pair
    "shifted": Kind("error", ("pairs have slipped", "句对错位"), (
        "a line is missing or doubled on one side: compare the two from the first line named",
        "某一侧缺了或多了一行：请从所示首行起比对")),
    "swapped": Kind("error", ("source and target are swapped", "原文与译文颠倒"), ("swap them back", "请换回来")),
    "language": Kind("warning", ("another language than the column's", "语言与该列不符"), (
        "leave it out, or translate it", "请去掉或补上翻译")),
    "copied": Kind("warning", ("the target is the source", "译文照抄原文"), (
        "a model learns to copy from these; names and codes may stay", "模型会因此学会照抄；专名和代码可以保留")),
    "ratio": Kind("warning", ("lengths that do not fit", "长度比例异常"), (
        "one side lacks a part, or belongs to another text", "某一侧缺了内容，或属于另一段文本")),
    "numbers": Kind("warning", ("numbers that differ", "数字不一致"), (
        "a wrong or an old translation: check it", "译错或已过时的翻译：请检查")),
    "placeholders": Kind("warning", ("placeholders that differ", "占位符不一致"), (
        "a model that learns this loses %s and {name}", "模型会因此丢失 %s 和 {name}")),
    "tags": Kind("warning", ("tags that differ", "标签不一致"), ("a model that learns this breaks markup", "模型会因此破坏标记")),
    "links": Kind("warning", ("addresses that differ", "网址或邮箱不一致"), ("check which one is right", "请检查哪一个正确")),
    # What is there twice
    "duplicate": Kind("warning", ("exact repetitions", "完全重复"), (
        "dropped before training (data.duplicates); --fix drops them too",
        "训练前会丢弃（data.duplicates）；--fix 也会删除"), "drop"),
    "near-duplicate": Kind("note", ("near repetitions", "近似重复"), (
        "they count double and hide how well a model generalises", "它们占双倍比重，并掩盖模型的泛化能力")),
    "leak": Kind("error", ("also in the dev file", "也出现在开发集中"), (
        "dropped before training (data.leaks); --fix drops them too", "训练前会丢弃（data.leaks）；--fix 也会删除"), "drop"),
    "near-leak": Kind("warning", ("nearly the same as a dev example", "与开发集样本近似"), (
        "scores on dev will look better than they are: leave these out of train", "开发集得分会虚高：请从训练集中去掉")),
    "several-targets": Kind("note", ("one source, several targets", "同一原文有多种译文"), (
        "the model learns a mixture; keep the best where context does not decide", "模型会学到混合结果；若语境相同请只留最好的")),
    # Lengths
    "long": Kind("warning", ("far longer than the others", "远长于其他样本"), (
        "dropped or cut at data.max_length: split it", "会按 data.max_length 丢弃或截断：请切分")),
    "truncation": Kind("warning", ("longer than the model reads", "超出模型读取长度"), (
        "raise data.max_length, or split the text; data.too_long decides what becomes of it",
        "提高 data.max_length 或切分文本；data.too_long 决定如何处理")),
    "supervised": Kind("warning", ("few tokens are learnt from", "可学习的词元很少"), (
        "most of what is read is not learnt: shorten prompts or passages", "读到的大多不参与学习：请缩短提示或段落")),
    # Labels
    "conflicting-labels": Kind("warning", ("one text, two labels", "同一文本有两种标签"), (
        "decide for one; the score has a ceiling otherwise", "请统一为一种，否则得分有上限")),
    "rare-label": Kind("warning", ("a label with few examples", "样本很少的标签"), (
        "collect more, or merge it with another; objective.class_weights: balanced helps a little",
        "多收集一些或与其他标签合并；objective.class_weights: balanced 略有帮助")),
    "imbalance": Kind("note", ("labels far from balance", "标签分布悬殊"), (
        "look at macro-F1, not at accuracy; objective.class_weights: balanced",
        "请看宏平均 F1 而非准确率；objective.class_weights: balanced")),
    "label-spelling": Kind("warning", ("labels that differ only in spelling", "仅写法不同的标签"), (
        "they are learnt as different labels: write one", "会被当作不同标签学习：请统一写法")),
    # Answers and chats
    "answer-offset": Kind("error", ("the answer is not where answer_start says", "答案不在 answer_start 处"), (
        "count in characters of the passage; the nearest same words are taken", "应按段落的字符计数；训练时取最近的相同文字")),
    "answer-missing": Kind("error", ("the passage does not hold the answer", "段落中没有答案"), (
        "dropped where answers are pointed at: quote the passage word for word", "抽取式训练会丢弃：请逐字引用段落")),
    "turns": Kind("warning", ("turns out of order", "对话轮次混乱"), (
        "user and assistant take turns, the assistant last, a system message only first",
        "用户与助手应轮流发言，以助手结尾，系统消息只在开头")),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. line: 0 where the whole file is meant. last: the last line of a stretch. note: what exactly, in English."""

    kind: str
    file: str
    line: int
    text: str = ""
    note: str = ""
    last: int | None = None

    @property
    def where(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}" + (
            f"–{self.last}" if self.last is not None and self.last != self.line else ""
        )


@dataclass
class Group:
    """All findings of a kind: counted, the first of them kept."""

    kind: str
    count: int = 0
    places: list[Finding] = field(default_factory=list)

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity


class Findings:
    """Findings as they come, by kind. dropped: the kind for each (file, line) that `--fix` leaves out.

    A line that cannot be read is said once, however many reasons there are.
    """

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self._groups = {kind: Group(kind) for kind in KINDS}
        self.dropped: dict[tuple[str, int], str] = {}
        self.extend(findings)

    def extend(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.append(finding)

    def append(self, finding: Finding) -> None:
        place = finding.file, finding.line
        if finding.kind == "unreadable" and self.dropped.get(place) == "unreadable":
            return
        if KINDS[finding.kind].cure == "drop":
            self.dropped.setdefault(place, finding.kind)
        group = self._groups[finding.kind]
        group.count += 1
        if len(group.places) < MOST_KEPT:
            group.places.append(finding)

    def groups(self, files: Sequence[str] = ()) -> list[Group]:
        """Those that are not empty: the severest first, else as in the table; places in the order of files and lines."""
        order = {file: i for i, file in enumerate(files)}
        slips = self._groups["shifted"].places
        found = []
        for kind, group in self._groups.items():
            places, count = group.places, group.count
            if kind in WITHIN_A_SLIP and slips:
                places = [place for place in places if not any(_is_within(place, slip) for slip in slips)]
                count -= len(group.places) - len(places)
            if count:
                places = sorted(places, key=lambda place: (order.get(place.file, -1), place.line))
                found.append(Group(kind, count, places[:MOST_PLACES]))
        return sorted(found, key=lambda group: SEVERITIES.index(group.severity))


WITHIN_A_SLIP = frozenset({"numbers", "placeholders", "tags", "links", "ratio", "language"})
"""What is not said of pairs that have slipped: it only follows."""


def _is_within(place: Finding, slip: Finding) -> bool:
    return slip.file == place.file and slip.line <= place.line <= (slip.last or slip.line)


def excerpt(text: str, at: int = 0) -> str:
    r"""What is shown of a text: around a place, control characters spelt out, so that what is invisible is seen.

    >>> excerpt("a\u200bb")
    'a\\u200bb'
    """
    start = 0 if at < SHOWN - 40 else at - SHOWN // 2
    part = text[start : start + SHOWN]
    seen = "".join(_visible(part))
    return ("…" if start else "") + seen + ("…" if start + SHOWN < len(text) else "")


def _visible(text: str) -> Iterator[str]:
    for char in text:
        yield char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
