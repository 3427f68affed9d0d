"""Ask the cluster of an inventory one question, with the official `openai` client: python ask.py INVENTORY."""

from __future__ import annotations

import json
import subprocess
import sys

from openai import OpenAI

clusterctl = [sys.executable, "-m", "clusterctl", "-i", sys.argv[1]]
# `status --json` says where the endpoint is and what the model is called: nothing here is guessed.
status = json.loads(subprocess.run([*clusterctl, "status", "--json"], check=True, stdout=subprocess.PIPE).stdout)
# The key is in the head's container and nowhere else: not in the inventory, nor in this file.
key = subprocess.run([*clusterctl, "api-key"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
client = OpenAI(base_url=f"{status['endpoint']}/v1", api_key=key)
chat = client.chat.completions.create(
    model=status["model"], messages=[{"role": "user", "content": "Hello!"}], max_tokens=16
)
print(f"{status['model']} answered: {chat.choices[0].message.content!r}")
if chat.usage:
    print(f"tokens: {chat.usage.prompt_tokens} in, {chat.usage.completion_tokens} out")
