"""Tests of safeeraser.judge. A package, so that its modules can share helpers and reuse names from other folders."""
