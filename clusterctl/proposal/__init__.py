"""What an inventory for machines that nobody has described yet could say, and why: pure functions of facts."""
