"""Sparsity and structured channel pruning."""
