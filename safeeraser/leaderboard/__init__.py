"""Compare all methods on the mini benchmark: with one budget, by one rule, on several base models and seeds."""
