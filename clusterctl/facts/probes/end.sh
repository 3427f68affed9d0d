# The last part: see clock_begin in frame.sh.

section clock_end date +%s.%N
