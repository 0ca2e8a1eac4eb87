"""Random configurations, and how a framework is compared with the reference on them."""
