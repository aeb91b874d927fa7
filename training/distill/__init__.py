"""Distillation: a small detector learns from a big one."""
