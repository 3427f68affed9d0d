"""Which names hold secrets, and how they are kept out of what people see."""
