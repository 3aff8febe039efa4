"""How results look: for a terminal, as JSON, as Markdown."""
