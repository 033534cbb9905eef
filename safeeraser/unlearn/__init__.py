"""Unlearning: views of the records, terms on the views, methods made of terms, and the trainer that runs them."""
