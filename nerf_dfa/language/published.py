"""Table 5 of Launay et al. 2020 (arXiv:2006.12878), and which tables are made here."""

from __future__ import annotations

from dataclasses import dataclass

# Validation perplexity per byte-pair token of WikiText-103 after 20 epochs (the best of dfa: 22). Shallow: section 3.3.
PERPLEXITY: dict[str, float] = {
    "wikitext-bp-warmup98": 34.4,
    "wikitext-bp": 29.8,
    "wikitext-dfa-macro-warmup98": 95.0,
    "wikitext-dfa-macro-adam98": 77.1,
    "wikitext-dfa-macro-adam999": 55.0,
    "wikitext-dfa-macro": 52.0,
    "wikitext-dfa-micro-warmup98": 182.0,
    "wikitext-dfa-micro-adam98": 166.0,
    "wikitext-dfa-micro-adam999": 99.9,
    "wikitext-dfa-micro": 93.3,
    "wikitext-shallow": 428.0,
}


@dataclass(frozen=True)
class Table:
    """Rows are runs, each by the config of its name."""

    title: str
    runs: tuple[str, ...]


TABLES = {
    "5": Table("WikiText-103, rules and optimisers", tuple(PERPLEXITY)),
    "rules": Table(
        "Learning rules on reviews",
        tuple(f"reviews-{run}" for run in ("bp", "dfa-macro", "dfa-micro", "shallow", "dkp-macro", "fdfa-macro")),
    ),
    "optimizers": Table(
        "Optimisers on reviews",
        (
            "reviews-dfa-macro-warmup98",
            "reviews-dfa-macro-adam98",
            "reviews-dfa-macro",
            "reviews-dfa-macro-plateau",
            "reviews-dfa-macro-radam",
            "reviews-bp-warmup98",
            "reviews-bp-warmup999",
        ),
    ),
    "attention": Table(
        "Attention on reviews",
        tuple(f"reviews-{rule}{kind}" for kind in ("", "-dense", "-random", "-fixed") for rule in ("bp", "dfa-macro")),
    ),
}
