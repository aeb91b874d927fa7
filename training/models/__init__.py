"""Networks and their trainers."""
