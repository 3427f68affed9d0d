"""What is wrong and how to fix it: pure rules over inventory and facts (rules/), as values (finding.py)."""
