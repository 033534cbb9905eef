"""Tests of safeeraser.judge. A package, so that its modules may share helpers and names with other rooms."""
