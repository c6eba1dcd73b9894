"""Transformers that continue a text: section 3.3 of Launay et al. 2020 with this package's rules and trainer."""
