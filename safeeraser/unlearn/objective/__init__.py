"""The objective of a run: losses (`losses`, `loss`), methods that combine them (`method`), their weighted sum for a
batch (`objective`), and how an optimizer step is taken (`step`)."""
