"""How a model lies on accelerators: what divides, what each holds, how many tokens fit. Pure arithmetic.

architecture.py  what config.json says           stages.py    layers per pipeline stage
divisible.py     what does not divide, and why   weights.py   bytes of weights per GPU, from safetensors headers
kv_cache.py      bytes per token, tokens          candidate.py one TP x PP, judged
report.py        the declared one and all others, for an inventory and facts
"""
