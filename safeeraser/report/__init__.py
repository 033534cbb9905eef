"""Reports: summaries -> tables, page, plots. It needs only files, and imports no torch."""
