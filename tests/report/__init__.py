"""Tests of safeeraser.report. A package, so that its modules may share helpers and names with other rooms."""
