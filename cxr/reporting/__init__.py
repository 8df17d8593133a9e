"""How numbers and pictures look: plot style, HTML blocks, number formats."""
