"""The robustness card: `audit.json` -> findings, tables, curves."""
