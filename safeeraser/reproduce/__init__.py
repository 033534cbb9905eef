"""One path from data to report: starts the other commands, run after run, and goes on wherever it was stopped.

Stands above the other rooms. It keeps no figure of its own and loads no torch: each step is a command of this project.
"""
