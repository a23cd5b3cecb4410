"""What came out, on the terminal."""

from rich.console import Console

from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.words import number
from grpo_credit.text import in_line


def print_verdicts(report: Report) -> None:
    """Print each strategy with its mean and its verdict, and what to do if more seeds are due."""
    width = max(map(len, report.study.credits))
    for result in report.comparison.results:
        sentence = result.verdict.sentence if result.verdict else "baseline"
        say(f"{result.strategy:<{width}}  {number(result.mean):>7}  {sentence}")


def say(text: str) -> None:
    """Print a line as it is, without what steers a terminal."""
    Console(soft_wrap=True).print(in_line(text), markup=False, highlight=False)
