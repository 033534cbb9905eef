"""Tests of eleven model families against recorded figures. A package, so that its modules may share helpers."""
