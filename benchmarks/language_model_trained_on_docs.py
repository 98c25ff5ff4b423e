"""A small language model to measure on: a GPT-2 of four layers, trained on the pages of this project's own docs.

No text and no weights have to be downloaded: it reads one character at a time, and learns in two minutes of CPU.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

DOCS: Final = Path(__file__).parents[1] / "docs"
LENGTH, STEPS, BATCH = 64, 400, 32
HELD_OUT: Final = 0.1


@cache
def text() -> tuple[Tensor, Tensor]:
    """Return the docs as characters, int64 ``[windows, 64]``: those to train on, and the last tenth, held out."""
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md")))
    codes = torch.tensor([min(ord(letter), 127) for letter in pages])
    windows = codes[: len(codes) // LENGTH * LENGTH].view(-1, LENGTH)
    first = round(len(windows) * (1 - HELD_OUT))
    return windows[:first], windows[first:]


@cache
def language_model() -> nn.Module:
    """Return the trained model; it takes ``input_ids`` and, for its loss, ``labels``."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=128, n_positions=LENGTH, n_embd=128, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    train, _ = text()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    rng = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        ids = train[torch.randint(len(train), (BATCH,), generator=rng)]
        loss: Tensor = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def perplexity(model: Any) -> float:
    """Return e to the mean loss of a character of the held-out text."""
    _, held_out = text()
    network = model if isinstance(model, nn.Module) else model.model
    with torch.no_grad():
        losses = [network(input_ids=ids, labels=ids).loss * len(ids) for ids in held_out.split(64)]
    return round(float(torch.exp(torch.stack(losses).sum() / len(held_out))), 3)
