"""How good a run is: metrics of its images, videos, and tables beside the published numbers."""
