"""The objective of a run: losses (`losses`, `loss`), methods that combine them (`method`), their weighted sum
(`objective`) for a `batch`, and how an optimizer step is taken (`step`)."""
