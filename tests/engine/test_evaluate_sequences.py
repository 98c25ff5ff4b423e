"""Sequences: labels are paired with outputs as the model's own loss pairs them, however the model is wrapped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.errors import DataError
from shrinkwidget.evaluation.evaluate_and_metrics import evaluate

VOCABULARY = 30
IDS = (torch.arange(10)[None] * 3 + torch.arange(24)[:, None]) % VOCABULARY  # the next token is always three further


def bert(kind: Any, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    model: nn.Module = kind(transformers.BertConfig(vocab_size=VOCABULARY, **sizes, **more))
    return model.eval()


def fresh_gpt() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.fixture(scope="module")
def gpt() -> Any:
    """Return a small GPT-2 that has learnt to count in threes."""
    model = fresh_gpt()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


class Passing(nn.Module):
    """Passes everything on to the model it holds, under one of the names people use."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, inner)
        self.name = name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule(self.name)(*args, **kwargs)


class Logits(nn.Module):
    """Hides the labels from the model it holds, and returns the logits alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.language = inner

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.language(input_ids=input_ids).logits
        return logits


class Plain(nn.Module):
    """A language model that computes no loss: nothing tells how its outputs are meant."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(input_ids))
        return logits


class Tuples(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
        return self.inner(input_ids=input_ids, labels=labels, return_dict=False)


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "plain": lambda m: m,
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "parallel": nn.DataParallel,
    ".module": lambda m: Passing(m, "module"),
    ".base_model.model": lambda m: Passing(Passing(m, "model"), "base_model"),
    "logits alone": Logits,
    "logits alone, compiled": lambda m: torch.compile(Logits(m), backend="eager"),
    "tuples": Tuples,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["dict", "pair"])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_a_causal_language_model_has_the_perplexity_of_its_own_loss(
    gpt: Any, wrap: Callable[[Any], Any], form: str
) -> None:
    with torch.no_grad():
        own = math.exp(gpt(input_ids=IDS, labels=IDS).loss)
    assert own < 1.5
    data: Any = (IDS, IDS) if form == "pair" else [{"input_ids": IDS, "labels": IDS}]
    assert evaluate(wrap(gpt), data, "perplexity").value == pytest.approx(own, rel=1e-4)
    assert evaluate(wrap(gpt), data).value == 1.0


@pytest.mark.parametrize("wrap", [WRAPPED["plain"], WRAPPED["parallel"], Logits], ids=["plain", "parallel", "logits"])
def test_retraining_pairs_as_evaluation_does(wrap: Callable[[Any], Any]) -> None:
    model = fresh_gpt()
    before = evaluate(model, [{"input_ids": IDS, "labels": IDS}], "perplexity").value
    method = sw.methods.FineTune(25, schedule=sw.methods.Schedule(lr=0.01, optimizer="adamw", decay="constant"))
    options = sw.methods.TrainingOptions(metric="perplexity", batch_size=24)
    trained = sw.retrain(wrap(model), (IDS, IDS), method=method, options=options)
    after = evaluate(trained, (IDS, IDS), "perplexity").value
    assert after < 0.5 * before


def test_padding_is_not_scored_and_not_paired() -> None:
    model, labels = fresh_gpt().eval(), IDS.clone()
    labels[:, 6:] = -100
    labels[0] = -100
    with torch.no_grad():
        own = math.exp(model(input_ids=IDS, labels=labels).loss)
    for data in ((IDS, labels), [{"input_ids": IDS, "labels": labels}]):
        score = evaluate(model, data, "perplexity")
        assert score.value == pytest.approx(own, rel=1e-4)
        assert score.n == 23
    zeros = labels.masked_fill(labels == -100, 999)
    assert evaluate(model, (IDS, zeros), "perplexity", ignore_index=999).value == pytest.approx(own, rel=1e-4)


def test_where_nothing_tells_you_are_asked_and_can_answer() -> None:
    torch.manual_seed(0)
    model = Plain()
    for metric in ("accuracy", "perplexity"):
        with pytest.raises(DataError, match=r"position i predicts label i or label i \+ 1. Say next_token=True"):
            evaluate(model, (IDS, IDS), metric)
    with pytest.raises(DataError, match="next_token=True"):
        sw.retrain(model, (IDS, IDS))
    with torch.no_grad():
        logits = model(IDS)
    for answer, pair in ((True, (logits[:, :-1], IDS[:, 1:])), (False, (logits, IDS))):
        wanted = F.cross_entropy(pair[0].movedim(-1, 1), pair[1]).item()
        found = evaluate(model, (IDS, IDS), "perplexity", next_token=answer)
        assert found.value == pytest.approx(math.exp(wanted), rel=1e-5)
    trained = sw.retrain(
        model,
        (IDS, IDS),
        method=sw.methods.FineTune(20, lr=1.0),
        options=sw.methods.TrainingOptions(next_token=True, batch_size=24),
    )
    assert evaluate(trained, (IDS, IDS), next_token=True).value > 0.9


def test_labels_that_are_ahead_already_are_not_shifted_once_more(gpt: Any) -> None:
    inputs, labels = IDS[:, :-1], IDS[:, 1:]
    for model in (gpt, Logits(gpt)):
        with pytest.raises(DataError, match="the labels are the inputs of the next position already"):
            evaluate(model, (inputs, labels))
        assert evaluate(model, (inputs, labels), next_token=False).value == 1.0


def masked() -> tuple[Tensor, Tensor]:
    hidden = torch.rand(IDS.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    return IDS.masked_fill(hidden, 0), IDS.masked_fill(~hidden, -100)


def test_a_masked_language_model_and_a_tagger_are_not_shifted() -> None:
    inputs, labels = masked()
    tags = IDS % 5
    for model, x, y in (
        (bert(transformers.BertForMaskedLM), inputs, labels),
        (bert(transformers.BertForTokenClassification, num_labels=5), IDS, tags),
    ):
        with torch.no_grad():
            own = model(input_ids=x, labels=y)
        right = (own.logits.argmax(-1) == y)[y != -100].double().mean().item()
        for data in ((x, y), [{"input_ids": x, "labels": y}], [{"input_ids": x, "labels": y}] * 2):
            assert evaluate(model, data, "perplexity").value == pytest.approx(math.exp(own.loss), rel=1e-4)
            assert evaluate(model, data).value == pytest.approx(right)


@pytest.mark.parametrize("as_tuple", [False, True], ids=["outputs", "tuples"])
def test_a_sequence_to_sequence_model_is_not_shifted(as_tuple: bool) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 16,
        "num_layers": 1,
        "num_heads": 2,
        "decoder_start_token_id": 0,
    }
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=VOCABULARY, **sizes)).eval()
    labels = IDS[:, 3:].clone()  # of another length than the inputs
    labels[:, -2:] = -100
    with torch.no_grad():
        own = math.exp(model(input_ids=IDS, labels=labels).loss)
    batch = {"input_ids": IDS, "labels": labels}
    found = evaluate(Tuples(model) if as_tuple else model, [batch], "perplexity")
    assert found.value == pytest.approx(own, rel=1e-4)


def test_a_loss_of_something_else_is_not_taken_for_an_answer() -> None:
    class Odd(Plain):
        def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
            logits = super().forward(input_ids)
            return {"logits": logits, "loss": logits.sum() * 0 + 50.0, "labels": labels}

    with pytest.raises(
        DataError, match=r"the model's own loss is 50, but the cross entropy is .* say which, next_token"
    ):
        evaluate(Odd(), [{"input_ids": IDS, "labels": IDS}])


def test_the_explorer_is_answered_too() -> None:
    ex = sw.explore(Plain(), (IDS, IDS), next_token=True, train_data=(IDS, IDS))
    try:
        assert ex.wait(60)
        assert ex.score is not None
        assert ex.score.n == 24
    finally:
        ex.close()
