"""Bags, videos and image folders, in and out, and their ground truth."""
