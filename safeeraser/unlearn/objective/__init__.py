"""What a run minimizes: losses (`losses`, `loss`), methods of them (`method`), and the sum for a batch (`objective`),
for which the model is run by `forward`; how an optimizer step is taken (`step`)."""
