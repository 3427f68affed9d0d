"""What is wrong and how to mend it: pure rules over inventory and facts (rules.py), as values (finding.py)."""
