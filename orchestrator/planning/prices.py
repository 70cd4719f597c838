"""Price of a worker hour: a number from the user, or a name in the price table."""

from __future__ import annotations

from dataclasses import dataclass

from distill.errors import UsageError, unknown
from orchestrator.planning.config import BudgetConfig
from search_spaces import library


@dataclass(frozen=True)
class Price:
    """Price of a worker hour. `currency` is empty if the user gave a number."""

    hour: float
    currency: str
    source: str

    def cost(self, worker_hours: float) -> float:
        """Cost of a number of worker hours."""
        return self.hour * worker_hours

    def amount(self, worker_hours: float) -> str:
        """Cost with its currency, as text."""
        return f"{self.cost(worker_hours):,.2f} {self.currency}".rstrip()


def price_of(budget: BudgetConfig) -> Price | None:
    """Price of a worker hour from the budget, None if the budget has no price.

    Raises:
        UsageError: the name is not in the table, the number is not above 0, or there is a cost limit without a price.
    """
    price = budget.price
    if price is None:
        if budget.cost is not None:
            raise UsageError(
                f"budget.cost is {budget.cost:g}, and the price of a worker hour is not known: give budget.price "
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
