"""What a run minimizes: losses (`losses`, `loss`), methods of them (`method`), and their sum for a batch by the terms'
weights (`objective`); how an optimizer step is taken (`step`)."""
