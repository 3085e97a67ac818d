"""How large a model pays for so much text and time: the law of the loss, the ladder of sizes, and the choice. All of it pure.

    text ──> vocabulary      machine ──> Speeds ──> tokens that each size would see ──> loss by the law ──> the size of the lowest

N: parameters that every token is multiplied with. D: tokens seen, U: different ones among them. L: nats per token.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ciyuan.model.config import PRESETS, Family, ModelSettings

Limit = Literal["minutes", "tokens", "steps"]


# --- The law -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """L(N, D) = lowest + (A^joint + B^joint)^(1/joint), with A = a (10⁶ / N)^alpha and B = b (10⁶ / D)^beta.

    Source: Hoffmann et al. 2022, eq. 10, which has joint = 1. Above 1 what is scarcer decides, as in Kaplan et al. 2020, eq. 1.5:
    a model that has hardly begun to learn gains little from being large.
    """

    lowest: float
    a: float
    alpha: float
    b: float
    beta: float
    joint: float = 1.0

    def loss(self, n: float, tokens: float, unique: float) -> float:
        """Of a model of n parameters that has seen `tokens`, of which so many are unique.

        Source: Muennighoff et al. 2023, eq. 8: what is repeated, and parameters beyond what the text can teach, count for less.
        """
        enough = min(n, self.optimal(unique))
        small = self.a * (1e6 / _worth(n, enough, PARAMETERS_WEAR)) ** self.alpha
        short = self.b * (1e6 / useful(tokens, unique)) ** self.beta
        return self.lowest + float((small**self.joint + short**self.joint) ** (1 / self.joint))

    def optimal(self, tokens: float) -> float:
        """The n for which so many tokens are as many as the same compute should spend: where alpha A^joint = beta B^joint."""
        short = self.b * (1e6 / tokens) ** self.beta
        small = short * (self.beta / self.alpha) ** (1 / self.joint)
        return 1e6 * float((self.a / small) ** (1 / self.alpha))


LAW = Law(lowest=1.4, a=1.3, alpha=0.3, b=1.95, beta=0.24, joint=1.5)
"""Chosen for minutes: decoders of 64, 128 and 192 features on the Three Kingdoms for five minutes (5.8, 2.3 and 1.3 million tokens,
12, 5 and 3 epochs; 4.64, 4.50 and 4.51 nats) it misses by 0.03, those of 64 to 256 on 0.2 to 2 million tokens of English by 0.14,
where it makes larger ones too good. Of the constants that were tried, those that fit both better let more text make a model
smaller on a slow machine. For 10⁹ tokens it wants 9 a parameter. `lowest` is the same for all sizes."""


TOKENS_WEAR, PARAMETERS_WEAR = 15.39, 5.31
"""After how many repetitions the next is worth 1/e of the first. Source: Muennighoff et al. 2023, table of fitted constants."""


def useful(tokens: float, unique: float) -> float:
    """How many tokens that are all different would teach as much. Source: Muennighoff et al. 2023, eq. 5."""
    return _worth(tokens, min(tokens, unique), TOKENS_WEAR)


def _worth(number: float, first: float, wear: float) -> float:
    return first * (1 + wear * (1 - math.exp(-(number / first - 1) / wear)))


# --- Sizes -------------------------------------------------------------------------------------------------------------

WIDTHS: dict[Family, tuple[tuple[int, int, int | None], ...]] = {
    "decoder": ((64, 3, None), (96, 3, None), (128, 4, None), (192, 4, None), (256, 6, None), (384, 6, None),
                (512, 8, None), (768, 12, None)),
    "encoder": ((64, 3, None), (96, 3, None), (128, 4, None), (192, 4, None), (256, 6, None), (384, 6, None),
                (512, 8, None), (768, 12, None)),
    "encoder-decoder": ((64, 2, 1), (96, 3, 2), (128, 3, 2), (192, 3, 2), (256, 3, 2), (384, 4, 2), (512, 6, 3), (768, 8, 4)),
}  # fmt: skip
"""The ladder: d_model, n_layers, n_decoder_layers. A rung has about twice the parameters of the one below it."""

SIZES = ("d_model", "n_layers", "n_decoder_layers", "n_heads", "n_kv_heads", "d_ff")


def ladder(settings: ModelSettings) -> list[ModelSettings]:
    """The sizes to choose from, small to large, all in numbers; what the settings say is in each of them."""
    preset = PRESETS[str(settings.preset)]
    found: list[ModelSettings] = []
    for d_model, n_layers, n_decoder_layers in WIDTHS[family_of(settings)]:
        d_model = settings.d_model or d_model
        heads = settings.n_heads or heads_of(d_model)
        numbers = {
            "d_model": d_model,
            "n_layers": n_layers,
            "n_heads": heads,
            "d_ff": _like(preset, "d_ff", "d_model", d_model),
        }
        if n_decoder_layers is not None:
            numbers["n_decoder_layers"] = n_decoder_layers
        if "n_kv_heads" in preset:
            groups = max(1, _like(preset, "n_kv_heads", "n_heads", heads))
            numbers["n_kv_heads"] = groups if heads % groups == 0 else 1
        said = settings.model_dump(include=set(SIZES), exclude_none=True)
        rung = settings.model_copy(update={"size": None, **numbers, **said})
        if rung not in found:
            found.append(rung)
    return found


def family_of(settings: ModelSettings) -> Family:
    family: Family = PRESETS[str(settings.preset)]["family"]  # type: ignore[assignment]  # a preset's fields are of many types
    return family


def heads_of(d_model: int) -> int:
    """Heads of 64 features in wide models and of 32 in narrow ones, or the nearest even number of them that divides the width.

    >>> [heads_of(d_model) for d_model in (64, 96, 128, 192, 256, 512, 250, 7)]
    [2, 2, 4, 4, 4, 8, 5, 1]
    """
    wanted = 64 if d_model >= 256 else 40
    even = [n for n in range(1, d_model + 1) if d_model % (2 * n) == 0]
    return min(even, key=lambda n: (abs(math.log(d_model / n / wanted)), n), default=1)


def _like(preset: dict[str, object], name: str, other: str, value: int) -> int:
    """A field in the preset's proportion to another, which is `value` here."""
    own, of = preset[name], preset[other]
    assert isinstance(own, int)
    assert isinstance(of, int)
    return value * own // of


# --- Speed -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speeds:
    """Seconds of training a token by N, from what was measured at some sizes. points: (N, seconds), at least one."""

    points: tuple[tuple[float, float], ...]

    def seconds(self, n: float) -> float:
        """Between two points a power of N; beyond the largest in proportion to N; below the smallest as there. Never falls."""
        points = _rising(self.points)
        if n >= points[-1][0]:
            return points[-1][1] * n / points[-1][0]
        for (low, quick), (high, slow) in itertools.pairwise(points):
            if low <= n <= high:
                share = math.log(n / low) / math.log(high / low)
                return quick * math.exp(share * math.log(slow / quick))
        return points[0][1]


def _rising(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A larger model is never quicker: where one seems to be, what else ran on the machine slowed the smaller one."""
    kept: list[tuple[float, float]] = []
    for n, seconds in sorted(points, reverse=True):
        kept.append((n, min(seconds, kept[-1][1]) if kept else seconds))
    return kept[::-1]


# --- The choice --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rung:
    """A size to choose. n: parameters that every token is multiplied with. tokens: what it would see. loss: by the law."""

    model: ModelSettings
    n: int
    tokens: float
    loss: float


def weigh(
    sizes: Sequence[tuple[ModelSettings, int]], law: Law, *, unique: int, seconds: float, speeds: Speeds
) -> list[Rung]:
    """Each size with what it would see and lose in so many seconds of training."""
    return [
        Rung(model, n, tokens, law.loss(n, tokens, unique))
        for model, n in sizes
        for tokens in [max(1.0, seconds / speeds.seconds(n))]
    ]


WORTH_GROWING = 0.002
"""Of the best loss: a larger model that gains less than this is not worth its memory and its slower answers."""


def pick(sizes: Sequence[tuple[ModelSettings, int]], law: Law, *, unique: int, seconds: float, speeds: Speeds) -> Rung:
    """The smallest whose loss is as low as the lowest, or nearly."""
    rungs = weigh(sizes, law, unique=unique, seconds=seconds, speeds=speeds)
    lowest = min(rung.loss for rung in rungs)
    return min((rung for rung in rungs if rung.loss <= (1 + WORTH_GROWING) * lowest), key=lambda rung: rung.n)


def choose_for_tokens(sizes: Sequence[tuple[ModelSettings, int]], law: Law, *, unique: int, tokens: float) -> Rung:
    """Where the tokens are fixed and time is not: the size for which so many are as many as its compute should spend on them.

    Any larger one would be better still, and dearer: the same time, given to more tokens instead, would buy more.
    """
    wanted = law.optimal(useful(tokens, unique))
    model, n = min(sizes, key=lambda size: (abs(math.log(size[1] / wanted)), size[1]))
    return Rung(model, n, tokens, law.loss(n, tokens, unique))


# --- Vocabulary and batch ----------------------------------------------------------------------------------------------

VOCABULARIES = (1000, 1500, 2000, 3000, 4000, 6000, 8000, 12_000, 16_000, 24_000, 32_000)
BYTES_PER_TOKEN = 4.3
"""Of UTF-8, of English and Chinese alike, at the vocabularies of this ladder."""
PIECES_PER_ROOT = 2.6
"""Pieces for the square root of the bytes: 4,000 for the 2.4 MB of the demonstration, for which they were found best."""
ALPHABETS = 1.6
"""Pieces for each character that has one of its own."""


def vocabulary(n_bytes: int, alphabet: int, *, seen: float) -> int:
    """Pieces for so much text: each is to be met often enough to be learnt. seen: bytes that the run will get to see.

    alphabet: characters that have a piece of their own; 0 where pieces are made of bytes.
    """
    wanted = PIECES_PER_ROOT * math.sqrt(min(n_bytes, seen))
    least = ALPHABETS * alphabet + 300  # special tokens and bytes
    found = min(VOCABULARIES, key=lambda size: abs(math.log(size / max(wanted, 1))))
    return found if found >= least else next((size for size in VOCABULARIES if size >= least), math.ceil(least))


BATCHES = tuple(1 << k for k in range(9, 18))
CRITICAL = 4000.0
"""Tokens of a step beyond which more tokens teach less each, in a run of a million; in longer ones with the square root of their
length. Source of the form: McCandlish et al. 2018, eq. 2.11; of the root: Zhang et al. 2024, How does critical batch size scale."""
MUON_OVERHEAD, ADAMW_OVERHEAD = 4.3, 30.0
"""What an update costs, in tokens of training: Muon's for each feature of the width (see the notes on its cost); AdamW's in all."""


def step_tokens(d_model: int, *, tokens: float, muon: bool, overhead: float | None = None) -> int:
    """Tokens of a step. overhead: tokens that could be trained on in the time of an update, where that was measured.

    Of B tokens a step each costs 1 + overhead / B and teaches 1 / (1 + B / critical): best at the root of overhead · critical.
    """
    cost = overhead if overhead is not None else MUON_OVERHEAD * d_model if muon else ADAMW_OVERHEAD
    best = math.sqrt(max(cost, 1.0) * CRITICAL * math.sqrt(max(tokens, 1.0) / 1e6))
    return min(BATCHES, key=lambda size: abs(math.log(size / best)))
