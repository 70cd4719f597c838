"""What a worker costs an hour: a number of the user's, or a name in the price table. No ray, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from distill.errors import UsageError, unknown
from orchestrator.planning.config import BudgetConfig
from search_spaces import library


@dataclass(frozen=True)
class Price:
    """The price of a worker hour; `currency` is empty where the user gave the bare number."""

    hour: float
    currency: str
    source: str

    def cost(self, worker_hours: float) -> float:
        """What so many worker hours cost."""
        return self.hour * worker_hours

    def amount(self, worker_hours: float) -> str:
        """The same for people."""
        return f"{self.cost(worker_hours):,.2f} {self.currency}".rstrip()


def price_of(budget: BudgetConfig) -> Price | None:
    """The price that the budget names; None where it names none.

    Raises:
        UsageError: there is no such name in the table, the number is not above 0, or a cost is given without a price.
    """
    price = budget.price
    if price is None:
        if budget.cost is not None:
            raise UsageError(
                f"budget.cost is {budget.cost:g}, and what a worker hour costs is not known: give budget.price "
                f"(--price-per-hour), a number or one of {', '.join(sorted(library.prices()))}"
            )
        return None
    if isinstance(price, str):
        table = library.prices()
        if price not in table:
            raise unknown("price", price, table)
        entry = table[price]
        return Price(entry["hour"], library.currency(), f"{price} ({entry['what']}), as of {entry['as_of']}")
    if price <= 0:
        raise UsageError(f"budget.price is {price:g}, must be above 0")
    return Price(price, "", "budget.price")
