def inspect():
    """X"""
