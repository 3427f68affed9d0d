"""What rules about one topic share: one module a topic. Pure."""
