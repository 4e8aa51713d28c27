"""What structured output costs and whether it holds."""
