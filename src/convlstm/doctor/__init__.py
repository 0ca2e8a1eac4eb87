"""What is installed, and whether every framework computes what the contract says."""
