"""The claims that the study tests: the whole list, written down before its report prompts are continued."""

from __future__ import annotations

from dataclasses import dataclass

# Settings of an arm: strength 1 with its published constants, or what was chosen on development prompts.
ONE, CHOSEN = "one", "chosen"
# Measures: shares of texts with both attributes or with one, and perplexity under the base.
BOTH, SENTIMENT, TOPIC, PERPLEXITY = "both", "sentiment", "topic", "perplexity"
# A base quantized to four bits, and the same base without.
NF4, FULL = "nf4", "none"

OURS = "this project"
LORANDI = "Lorandi & Belz 2026, arXiv 2605.12345 (known from its abstract)"
QA_FLORA = "Shukla et al., qa-FLoRA, AAAI 2026, arXiv 2512.11366 (formulas known second-hand)"


@dataclass(frozen=True)
class Claim:
    """One arm's mean minus another's, paired text by text, against a bound.

    It holds where the difference is above the bound with Holm's correction, and does not where it is below.
    """

    id: str
    # As the claim's source would say it.
    sentence: str
    left: str
    right: str
    source: str
    measure: str = BOTH
    # ONE or CHOSEN, for both arms.
    at: str = ONE
    # Whether the left arm should have more or less than the right one.
    higher: bool = True
    # In shares; for perplexity the natural logarithm of a ratio. Below 0: by so much the left arm may lose.
    bound: float = 0.0
    # The left arm on a base quantized to nf4, the right one on the same base without.
    precisions: bool = False


CLAIMS = (
    Claim(
        "sum-average",
        "Adding modules' outputs gets both attributes right more often than averaging them, at strength 1.",
        "sum",
        "average",
        LORANDI,
    ),
    Claim(
        "sum-factor-average",
        "Adding outputs beats averaging the modules' weights (W-a), at strength 1.",
        "sum",
        "factor-average",
        LORANDI,
    ),
    Claim(
        "sum-factor-average-chosen",
        "Adding outputs beats averaging weights (W-a) also each at its best fluent strength.",
        "sum",
        "factor-average",
        LORANDI,
        at=CHOSEN,
    ),
    Claim(
        "sum-combined",
        "Adding two modules beats one module trained on both attributes' texts, at strength 1.",
        "sum",
        "combined",
        LORANDI,
    ),
    Claim(
        "sum-sentiment",
        "In the sum the sentiment is right as often as with its module alone, to within 3 points.",
        "sum",
        "single-sentiment",
        LORANDI,
        SENTIMENT,
        bound=-0.03,
    ),
    Claim(
        "sum-topic",
        "In the sum the topic is right as often as with its module alone, to within 3 points.",
        "sum",
        "single-topic",
        LORANDI,
        TOPIC,
        bound=-0.03,
    ),
    Claim(
        "sum-prompting",
        "Adding two modules beats telling the base in words what is wanted.",
        "sum",
        "prompting",
        "the baseline that composing has to beat",
    ),
    Claim(
        "kl-static",
        "Weights that follow the prompt (KL, as published) beat equal ones that sum to 1, at strength 1.",
        "kl-paper",
        "average",
        QA_FLORA,
    ),
    Claim(
        "kl-static-chosen",
        "Weights that follow the prompt (KL as published) beat equal ones, each at its best fluent strength.",
        "kl-paper",
        "average",
        QA_FLORA,
        at=CHOSEN,
    ),
    Claim(
        "kl-sum-chosen",
        "KL's weights, scaled to a mean of 1, beat the sum, each at its best fluent strength.",
        "kl-unit",
        "sum",
        QA_FLORA,
        at=CHOSEN,
    ),
    Claim(
        "contrast-sum-chosen",
        "Taking away part of the opposites (contrast) beats the sum, each at its best fluent strength.",
        "contrast",
        "sum",
        OURS,
        at=CHOSEN,
    ),
    Claim(
        "contrast-perplexity",
        "At strength 1 contrast reads more fluently than the sum: its perplexity is lower.",
        "contrast",
        "sum",
        OURS,
        PERPLEXITY,
        higher=False,
    ),
    Claim(
        "arrow-sum-chosen",
        "Routing each token by the modules' main directions (Arrow) beats the sum, each at its best fluent "
        "strength.",
        "arrow",
        "sum",
        "Arrow, arXiv 2405.11157, which tests other tasks",
        at=CHOSEN,
    ),
    Claim(
        "sum-nf4",
        "The sum survives quantising the base to nf4: both right at most 5 points less often than on the "
        "full base, at strength 1.",
        "sum",
        "sum",
        LORANDI,
        bound=-0.05,
        precisions=True,
    ),
)
