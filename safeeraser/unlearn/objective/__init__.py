"""What a run minimizes: losses (`losses`, `loss`), methods of them (`method`), and the sum for a batch (`objective`);
how an optimizer step is taken (`step`)."""
