"""Nodes and edges of citation graphs: section 3.2 of Launay et al. 2020 with this package's rules and trainer."""
