"""What every framework shares above its engine, without arrays."""
