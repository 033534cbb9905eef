"""Reports: summaries -> tables, page, plots. It reads files alone, and imports no torch."""
