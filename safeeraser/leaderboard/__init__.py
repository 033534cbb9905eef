"""An experiment on the mini benchmark: all methods with one budget, on several base models and seeds, by one rule."""
