"""Reports for people: JSON, one self-contained HTML file, charts, comparison."""
