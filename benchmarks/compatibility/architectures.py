"""The models the compatibility table tries: small ones with random weights, of torch, transformers and timm."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

Task = Literal["classify", "binary", "next token", "masked token", "sequence to sequence", "segment", "features"]

CLASSES: Final = 5
VOCABULARY: Final = 60
EXAMPLES: Final = 12


@dataclass(frozen=True)
class Architecture:
    """One model to try.

    `build` makes it again, with other random weights each time. `data` gives two batches as its users have them. `task`
    says what its outputs are compared with, and so how the table's own reference scores it.
    """

    name: str
    library: str
    task: Task
    build: Callable[[], nn.Module]
    data: Callable[[], list[Any]]


def architectures() -> Iterator[Architecture]:
    """Yield every architecture whose library is installed."""
    yield from of_torch()
    for library, entries in (("transformers", of_transformers), ("timm", of_timm)):
        try:
            importlib.import_module(library)
        except (ImportError, RuntimeError) as error:  # timm: a torchvision that does not fit torch is a RuntimeError
            print(f"{library} cannot be imported, its rows are left out: {error}")
        else:
            yield from entries()


def images(size: int = 32, channels: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Return two batches of images with labels."""
    chance = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(EXAMPLES, channels, size, size, generator=chance),
            torch.randint(CLASSES, (EXAMPLES,), generator=chance),
        )
        for _ in range(2)
    ]


def tokens(labels: Task, length: int = 16, **more: Any) -> list[dict[str, Any]]:
    """Return two batches of token ids, as a data collator of transformers gives them."""
    chance = torch.Generator().manual_seed(2)

    def draw(most: int, *shape: int) -> Tensor:
        return torch.randint(3, most, shape, generator=chance)

    batches = []
    for _ in range(2):
        ids = draw(VOCABULARY, EXAMPLES, length)
        batch: dict[str, Any] = {"input_ids": ids, **more}
        if labels == "classify":
            batch["labels"] = torch.randint(CLASSES, (EXAMPLES,), generator=chance)
        elif labels == "next token":
            batch["labels"] = ids.clone()
        elif labels == "masked token":
            batch["labels"] = torch.where(torch.rand(ids.shape, generator=chance) < 0.3, ids, -100)
        else:
            batch["labels"] = draw(VOCABULARY, EXAMPLES, length // 2)
        batches.append(batch)
    return batches


# ── torch ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.recurrent = kind(12, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.recurrent(x)[0][:, -1]))


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.encoder(x).mean(1)))


class _UNet(nn.Module):
    """Down and up again, with a transposed convolution and a concatenation: a label for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down(x)
        return cast(Tensor, self.head(torch.cat([high, self.up(self.inner(high))], 1)))


class _TiedAutoencoder(nn.Module):
    """The decoder's weight is the encoder's, transposed: one memory, two shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(32, 12), nn.Linear(12, 32)
        self.decoder.weight = nn.Parameter(self.encoder.weight.t())
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.decoder(torch.relu(self.encoder(x)))))


def _sequences() -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(3)
    return [
        (torch.randn(EXAMPLES, 10, 12, generator=chance), torch.randint(CLASSES, (EXAMPLES,), generator=chance))
        for _ in range(2)
    ]


def _vectors(width: int = 32, two: bool = False) -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(4)
    most = 2 if two else CLASSES
    batches = [
        (torch.randn(EXAMPLES, width, generator=chance), torch.randint(most, (EXAMPLES,), generator=chance))
        for _ in range(2)
    ]
    return [(x, y.float()[:, None]) for x, y in batches] if two else batches


def _pixels() -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(5)
    return [(x, torch.randint(CLASSES, (EXAMPLES, 32, 32), generator=chance)) for x, _ in images()]


def _mlp(*last: nn.Module, classes: int = CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, classes), *last)


def _weight_normed() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm
    return nn.Sequential(normed(nn.Linear(32, 48)), nn.ReLU(), normed(nn.Linear(48, CLASSES)))


def _pruned_by_torch() -> nn.Module:
    model = _mlp()
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", 0.6)
    return model


def _depthwise() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES)),
    )


def _volumes() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3)),
        nn.Conv3d(1, 6, 3, 2, 1),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.Flatten(1),
        nn.LazyLinear(CLASSES),
    )


def _built_lazily() -> nn.Module:
    model = _volumes()
    model(torch.zeros(1, 3, 32, 32))
    return model


def of_torch() -> Iterator[Architecture]:
    """Yield models of plain torch, odd ones among them."""
    sequence = partial(Architecture, library="torch", task="classify", data=_sequences)
    vector = partial(Architecture, library="torch", task="classify", data=_vectors)
    image = partial(Architecture, library="torch", task="classify", data=images)
    yield vector("MLP", build=_mlp)
    yield Architecture(
        "MLP, one sigmoid", "torch", "binary", partial(_mlp, nn.Sigmoid(), classes=1), partial(_vectors, two=True)
    )
    yield vector("MLP, weight norm", build=_weight_normed)
    yield vector("MLP, masks of torch.nn.utils.prune", build=_pruned_by_torch)
    yield vector("tied autoencoder", build=_TiedAutoencoder)
    yield sequence("LSTM", build=partial(_Recurrent, nn.LSTM))
    yield sequence("GRU", build=partial(_Recurrent, nn.GRU))
    yield Architecture("TransformerEncoder", "torch", "classify", _Encoder, _encoded)
    yield image("depthwise convolutions", build=_depthwise)
    yield image("3-D convolution", build=_built_lazily)
    yield Architecture("U-Net", "torch", "segment", _UNet, _pixels)


def _encoded() -> list[tuple[Tensor, Tensor]]:
    return [(torch.cat([x, x], 2), y) for x, y in _sequences()]


# ── transformers ─────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL: Final[dict[str, Any]] = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
WORDS: Final[dict[str, Any]] = dict(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2)
GROUPED: Final[dict[str, Any]] = {**SMALL, **WORDS, "num_key_value_heads": 2}
CLASSIFIED: Final[dict[str, Any]] = {**SMALL, **WORDS, "num_labels": CLASSES, "max_position_embeddings": 64}
GPT2: Final[dict[str, Any]] = {**WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
EXPERTS: Final[dict[str, Any]] = dict(num_experts_per_tok=2, moe_intermediate_size=24)
PICTURES: Final[dict[str, Any]] = {**SMALL, "image_size": 32, "patch_size": 8, "num_labels": CLASSES}
STAGES: Final[dict[str, Any]] = dict(depths=[1, 1], num_labels=CLASSES)


def _transformer(model: str, config: str, **fields: Any) -> nn.Module:
    library = importlib.import_module("transformers")
    made: nn.Module = getattr(library, model)(getattr(library, config)(**fields))
    return made


def of_transformers() -> Iterator[Architecture]:
    """Yield text, image and sound models of transformers, as small as their configurations allow."""

    def row(
        name: str, task: Task, data: Callable[[], list[Any]], model: str, config: str, **fields: Any
    ) -> Architecture:
        return Architecture(name, "transformers", task, partial(_transformer, model, config, **fields), data)

    text = partial(tokens, "classify")
    for name, model, config, more in (
        ("BERT", "BertForSequenceClassification", "BertConfig", {}),
        ("RoBERTa", "RobertaForSequenceClassification", "RobertaConfig", {}),
        ("ELECTRA", "ElectraForSequenceClassification", "ElectraConfig", {"embedding_size": 32}),
        ("ALBERT (shared layers)", "AlbertForSequenceClassification", "AlbertConfig", {"embedding_size": 16}),
        (
            "DeBERTa-v2",
            "DebertaV2ForSequenceClassification",
            "DebertaV2Config",
            {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
        ),
        ("MPNet", "MPNetForSequenceClassification", "MPNetConfig", {}),
    ):
        yield row(name, "classify", text, model, config, **{**CLASSIFIED, **more})
    yield row(
        "DistilBERT",
        "classify",
        text,
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        vocab_size=VOCABULARY,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=48,
        num_labels=CLASSES,
    )
    yield row(
        "BERT, masked tokens",
        "masked token",
        partial(tokens, "masked token"),
        "BertForMaskedLM",
        "BertConfig",
        **{**SMALL, **WORDS},
    )
    yield row(
        "GPT-2, classifier",
        "classify",
        text,
        "GPT2ForSequenceClassification",
        "GPT2Config",
        **{**GPT2, "num_labels": CLASSES},
    )
    following = partial(tokens, "next token")
    for name, model, config, fields in (
        ("GPT-2 (Conv1D, tied)", "GPT2LMHeadModel", "GPT2Config", GPT2),
        ("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", {**SMALL, **WORDS}),
        ("Bloom", "BloomForCausalLM", "BloomConfig", {**WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
        (
            "OPT",
            "OPTForCausalLM",
            "OPTConfig",
            {
                **WORDS,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "ffn_dim": 48,
                "word_embed_proj_dim": 32,
                "max_position_embeddings": 32,
            },
        ),
        ("Llama", "LlamaForCausalLM", "LlamaConfig", GROUPED),
        ("Mistral", "MistralForCausalLM", "MistralConfig", GROUPED),
        ("Qwen2 (tied)", "Qwen2ForCausalLM", "Qwen2Config", {**GROUPED, "tie_word_embeddings": True}),
        ("Gemma2 (tied)", "Gemma2ForCausalLM", "Gemma2Config", {**GROUPED, "head_dim": 8}),
        ("Phi-3", "Phi3ForCausalLM", "Phi3Config", GROUPED),
        (
            "Mixtral (experts)",
            "MixtralForCausalLM",
            "MixtralConfig",
            {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
        ),
        (
            "Qwen3-MoE (experts)",
            "Qwen3MoeForCausalLM",
            "Qwen3MoeConfig",
            {**GROUPED, **EXPERTS, "num_experts": 4, "head_dim": 8},
        ),
        (
            "GPT-OSS (experts, in × out)",
            "GptOssForCausalLM",
            "GptOssConfig",
            {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
        ),
        (
            "DeepSeek-V3 (experts)",
            "DeepseekV3ForCausalLM",
            "DeepseekV3Config",
            {
                **GROUPED,
                **EXPERTS,
                "num_key_value_heads": 4,
                "n_routed_experts": 4,
                "n_group": 1,
                "topk_group": 1,
                "q_lora_rank": 16,
                "kv_lora_rank": 8,
                "qk_rope_head_dim": 4,
                "qk_nope_head_dim": 4,
                "v_head_dim": 8,
                "first_k_dense_replace": 1,
            },
        ),
        (
            "Mamba",
            "MambaForCausalLM",
            "MambaConfig",
            {**WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        ),
    ):
        yield row(name, "next token", following, model, config, **fields)
    both = partial(tokens, "sequence to sequence")
    yield row(
        "T5",
        "sequence to sequence",
        both,
        "T5ForConditionalGeneration",
        "T5Config",
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    yield row(
        "BART",
        "sequence to sequence",
        both,
        "BartForConditionalGeneration",
        "BartConfig",
        **{
            **WORDS,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 2,
        },
    )
    for name, model, config, fields in (
        ("ViT", "ViTForImageClassification", "ViTConfig", PICTURES),
        ("DINOv2", "Dinov2ForImageClassification", "Dinov2Config", {**PICTURES, "mlp_ratio": 2}),
        ("BEiT", "BeitForImageClassification", "BeitConfig", PICTURES),
        (
            "Swin",
            "SwinForImageClassification",
            "SwinConfig",
            {**STAGES, "image_size": 32, "patch_size": 4, "embed_dim": 16, "num_heads": [2, 4], "window_size": 4},
        ),
        (
            "ConvNeXtV2",
            "ConvNextV2ForImageClassification",
            "ConvNextV2Config",
            {**STAGES, "hidden_sizes": [16, 32], "num_stages": 2, "patch_size": 2},
        ),
        (
            "ResNet",
            "ResNetForImageClassification",
            "ResNetConfig",
            {**STAGES, "embedding_size": 16, "hidden_sizes": [16, 32], "layer_type": "basic"},
        ),
        (
            "RegNet",
            "RegNetForImageClassification",
            "RegNetConfig",
            {**STAGES, "embedding_size": 16, "hidden_sizes": [16, 32], "groups_width": 8},
        ),
        (
            "MobileNetV2",
            "MobileNetV2ForImageClassification",
            "MobileNetV2Config",
            {"num_labels": CLASSES, "image_size": 32, "depth_multiplier": 0.35},
        ),
        (
            "MobileViT",
            "MobileViTForImageClassification",
            "MobileViTConfig",
            {
                "num_labels": CLASSES,
                "image_size": 64,
                "hidden_sizes": [16, 24, 32],
                "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 32],
                "num_attention_heads": 2,
            },
        ),
        (
            "SegFormer, classifier",
            "SegformerForImageClassification",
            "SegformerConfig",
            {
                "num_labels": CLASSES,
                "depths": [1, 1, 1, 1],
                "hidden_sizes": [8, 16, 24, 32],
                "num_attention_heads": [1, 2, 2, 4],
                "decoder_hidden_size": 16,
            },
        ),
    ):
        size = 64 if "Mobile" in name or "SegFormer" in name else 32
        yield row(name, "classify", partial(_pictures, size), model, config, **fields)
    yield row(
        "Wav2Vec2, classifier",
        "classify",
        _sounds,
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        **{
            **SMALL,
            "num_labels": CLASSES,
            "conv_dim": [16, 16],
            "conv_stride": [5, 4],
            "conv_kernel": [10, 8],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "classifier_proj_size": 16,
        },
    )
    yield row(
        "Whisper",
        "sequence to sequence",
        _spoken,
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        **{
            **WORDS,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_mel_bins": 16,
            "max_source_positions": 32,
            "max_target_positions": 32,
            "decoder_start_token_id": 1,
        },
    )


def _pictures(size: int) -> list[dict[str, Tensor]]:
    return [{"pixel_values": x, "labels": y} for x, y in images(size)]


def _sounds() -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(6)
    return [{"input_values": torch.randn(EXAMPLES, 800, generator=chance), "labels": y} for _, y in images()]


def _spoken() -> list[dict[str, Any]]:
    chance = torch.Generator().manual_seed(7)
    return [
        {"input_features": torch.randn(EXAMPLES, 16, 64, generator=chance), "labels": batch["labels"]}
        for batch in tokens("sequence to sequence")
    ]


# ── timm ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

TIMM: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("resnet10t", {}),
    ("mobilenetv3_small_050", {}),
    ("efficientnet_lite0", {}),
    ("regnetx_002", {}),
    ("ghostnet_050", {}),
    ("repvgg_a0", {}),
    ("mobileone_s0", {}),
    ("fastvit_t8", {}),
    ("densenet121", {"growth_rate": 8, "block_config": (2, 2, 2)}),
    ("nf_resnet26", {"channels": (32, 64, 64, 64)}),
    ("mixer_s32_224", {"img_size": 64}),
    ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2}),
    ("cait_xxs24_224", {"img_size": 64, "depth": 2}),
    ("levit_128s", {"img_size": 64}),
    ("xcit_nano_12_p8_224", {"img_size": 64, "depth": 2}),
)


def _timm(name: str, fields: dict[str, Any]) -> nn.Module:
    made: nn.Module = importlib.import_module("timm").create_model(name, num_classes=CLASSES, **fields)
    return made


def of_timm() -> Iterator[Architecture]:
    """Yield image models of timm."""
    for name, fields in TIMM:
        yield Architecture(name, "timm", "classify", partial(_timm, name, dict(fields)), partial(images, 64))
