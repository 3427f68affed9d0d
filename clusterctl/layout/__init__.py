"""How a model lies on accelerators: what divides, what each holds, how many tokens fit. Pure arithmetic.

architecture.py  what config.json says           stages.py    layers per pipeline stage
towers.py        encoders of images and sound    tensors.py   what vLLM loads, by Hugging Face's names
divisible.py     what does not divide, and why   weights.py   bytes of weights per GPU, from the files' headers
kv_cache.py      bytes per token, tokens          candidate.py one TP x PP, judged
memory.py        whose memory a GPU's is          load.py      what an inventory asks for
report.py        the declared one and all others, for an inventory and facts
"""
